"use strict";
// Beside the pointer: the values of the lines of a plot, read back from what is drawn. The page is whole without it.
(() => {
  const tip = document.getElementById("tip");
  const ends = (area, name) => area.dataset[name].split(" ").map(Number);
  const value = ([low, high], share, log) => log ? low * (high / low) ** share : low * (1 - share) + high * share;
  const written = (v) => Math.abs(v) >= 1e4 || (v && Math.abs(v) < 1e-3) ? v.toExponential(2) : String(Number(v.toPrecision(4)));
  const nearest = (line, x) => {
    let best = null;
    for (const pair of line.getAttribute("points").split(" ")) {
      const [px, py] = pair.split(",").map(Number);
      if (best === null || Math.abs(px - x) < Math.abs(best.x - x)) best = { x: px, y: py };
    }
    return best;
  };
  for (const area of document.querySelectorAll(".plot .area")) {
    const svg = area.querySelector("svg");
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width));
      const found = new Map();
      for (const line of svg.querySelectorAll("polyline")) {
        if (getComputedStyle(line).display === "none") continue;
        const point = nearest(line, x);
        const known = found.get(line.dataset.label);
        if (!known || Math.abs(point.x - x) < Math.abs(known.x - x)) found.set(line.dataset.label, point);
      }
      if (!found.size) return;
      const at = [...found.values()].reduce((a, b) => Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a);
      const lines = [written(value(ends(area, "x"), at.x / 100, "logX" in area.dataset))];
      for (const [label, point] of found) {
        lines.push(`${label}: ${written(value(ends(area, "y"), 1 - point.y / 100, "logY" in area.dataset))}`);
      }
      tip.textContent = lines.join("\n");
      tip.hidden = false;
      tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4))}px`;
      tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 10)}px`;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
})();
