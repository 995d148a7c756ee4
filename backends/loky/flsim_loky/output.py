"""Outputs: what the workers write past Python, read in the driver.

What a ClientApp prints comes back with its message. What its children, ``os.write`` and C libraries write does not: it
goes to the file descriptors 1 and 2 of the worker, which would be the driver's own, its terminal among them. So they
are a pipe. The driver reads it: a thread of the worker could not while C code there holds the GIL, and would have the
process wait for itself once the pipe is full.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait

from flsim.envelope import clean

LIMIT = 64 * 1024
"""Characters shown of what one worker writes in the time of one lease. The rest is read, and dropped, so that no worker
waits for it to be."""

CHUNK = 64 * 1024
"""Bytes read at once: as many as a pipe holds on Linux."""


class Outputs:
    """Reads all pipes of a run, in a thread of its own, and shows each line with its worker's pid.

    Args:
        show: takes a line.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._outputs: dict[Connection, Output] = {}
        self._lock = threading.Lock()
        self._heard, self._say = Pipe(duplex=False)
        self._over = False
        self._thread = threading.Thread(target=self._read, name="flsim-loky-output", daemon=True)
        self._thread.start()

    def new(self) -> tuple[Output, Connection]:
        """For a worker that is about to be started: its output, and the end of the pipe that is the worker's. Once it
        has that, the driver closes it."""
        reading, writing = Pipe(duplex=False)
        os.set_blocking(reading.fileno(), False)
        output = Output(reading, self._show)
        with self._lock:
            self._outputs[reading] = output
        self._say.send_bytes(b"new")
        return output, writing

    def stop(self) -> None:
        """Show what there is, and let go. To be called when the workers have ended: a child of theirs may hold a pipe
        for ever, so that its end is not waited for."""
        self._over = True
        self._say.send_bytes(b"over")
        self._thread.join()
        for output in self._outputs.values():
            while output.left > 0 and output.read():
                pass
            output.close()
        self._outputs.clear()
        self._heard.close()
        self._say.close()

    def _read(self) -> None:
        while not self._over:
            with self._lock:
                readable = [self._heard, *self._outputs]
            for ready in wait(readable):
                assert isinstance(ready, Connection)
                if ready is self._heard:
                    self._heard.recv_bytes()
                elif self._outputs[ready].read() == 0:
                    with self._lock:
                        output = self._outputs.pop(ready)
                    output.close()


class Output:
    """What one worker writes. All but :meth:`lease` is for the thread that reads."""

    def __init__(self, reading: Connection, show: Callable[[str], None]) -> None:
        self.left = LIMIT
        """Characters that may still be shown."""
        self._reading = reading
        self._show = show
        self._name = ""
        self._text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def lease(self) -> None:
        """The worker is given a lease: as much as before may be shown again."""
        self.left = LIMIT

    def read(self) -> int | None:
        """Read once, and show the lines that are whole. Returns how many bytes there were: 0 at the end; None where
        there is nothing now."""
        try:
            data = os.read(self._reading.fileno(), CHUNK)
        except BlockingIOError:
            return None
        if self.left > 0:
            self._add(self._decoder.decode(data, not data))
        return len(data)

    def close(self) -> None:
        """Show what was begun, and close the pipe."""
        self._add("\n")
        self._reading.close()

    def _add(self, text: str) -> None:
        whole, newline, rest = (self._text + text).rpartition("\n")
        if len(rest) >= LIMIT:
            whole, rest = whole + newline + rest, ""
        for line in whole.splitlines():
            self._line(line)
        self._text = rest if self.left > 0 else ""

    def _line(self, line: str) -> None:
        if not self._name:  # the first line is what _begin of the worker says
            self._name = f"worker {line}"
            return
        if self.left <= 0:
            return
        if not line:
            self.left -= 1  # or a child that writes nothing else would be read for ever at the end
            return
        text = f"{self._name} | {line}"
        if len(text) > self.left:
            text = f"{text[: self.left]}… (cut)"
            self.left = 0
        self.left -= len(text)
        self._show(clean(text, len(text)))


# ---- in the worker


def write_to(writing: Connection) -> None:
    """Have all that this process writes to its file descriptors 1 and 2 go there, and what it starts inherit that."""
    os.write(writing.fileno(), f"{os.getpid()}\n".encode())
    for stream, fd in ((sys.stdout, 1), (sys.stderr, 2)):
        if stream is not None:
            stream.flush()
            with contextlib.suppress(AttributeError):  # somebody's own, as of a sitecustomize
                stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # likewise
        os.dup2(writing.fileno(), fd)
    writing.close()
