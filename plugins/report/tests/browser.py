"""A real browser: Chromium without a window, spoken to by pipes, so that no port is opened."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def needs_chromium() -> None:
    """Skip a test where there is none."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")


class Browser:
    """One page of it, by the commands of the DevTools protocol."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._last = 0
        self._rest = b""
        self._session: dict[str, str] = {}
        self.complaints: list[str] = []
        """What the page has said on its console, raised, or failed to load."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """A command's result. Raises AssertionError where it has none."""
        self._last += 1
        command = {"id": self._last, "method": method, "params": params, **self._session}
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while (message := self._message()).get("id") != self._last:
            self._note(message)
        assert "error" not in message, message["error"]
        return message["result"]

    def open(self, url: str) -> None:
        """Load a page, to its end."""
        loader = self.call("Page.navigate", url=url).get("loaderId")
        while True:
            message = self._message()
            self._note(message)
            if message.get("method") == "Page.loadEventFired":
                return
            assert loader is not None

    def size(self, width: int, height: int, *, scheme: str = "light") -> None:
        """How wide the page is, and whether it is dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is. Raises AssertionError where it raises."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def move(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, file: Path) -> None:
        """Take one of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser is gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(message["params"]))
        elif message.get("method") == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith(("file:", "chrome:", "about:", "data:")):
                self.complaints.append(f"it asks the network for {url}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("Browser.close")


AS_3_AND_4 = """
import fcntl, os, sys
read, write = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]]
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Runs a command that reads from 3 and writes to 4, as Chromium does."""


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own, which is ended afterwards."""
    assert CHROMIUM is not None
    profile = tempfile.mkdtemp(prefix="chromium-")
    # So that chrome://tracing can be opened.
    Path(profile, "Local State").write_text('{"internal_only_uis_enabled": true}')
    to_it, ours = os.pipe()
    theirs, from_it = os.pipe()
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
        "--no-first-run", f"--user-data-dir={profile}", "--hide-scrollbars",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", AS_3_AND_4, str(to_it), str(from_it), *command], pass_fds=(to_it, from_it),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(to_it)
    os.close(from_it)
    try:
        yield Browser(ours, theirs)
    finally:
        os.close(ours)
        os.close(theirs)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(profile, ignore_errors=True)
