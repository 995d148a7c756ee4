"""What a check sees and does from outside: which processes live, what they listen on, how much they may write.

By /proc, so on Linux."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Wait until ``true()``, at most ``seconds``. Returns whether it is."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)  # what other processes do cannot be waited for otherwise
    return True


_TRACKERS = ("resource_tracker", "semaphore_tracker")


def children(of: int | None = None) -> set[int]:
    """The pids of the living descendants of a process (this one), but Python's and loky's resource trackers."""
    root = of or os.getpid()
    parents: dict[int, int] = {}
    for name in (entry.name for entry in os.scandir("/proc") if entry.name.isdigit()):
        with suppress(OSError), open(f"/proc/{name}/stat") as stat:  # it may end meanwhile
            fields = stat.read().rpartition(")")[2].split(maxsplit=2)
            if fields[0] != "Z":
                parents[int(name)] = int(fields[1])
    found = {root}
    while more := {p for p, parent in parents.items() if parent in found and p not in found}:
        found |= more
    return {p for p in found - {root} if not any(t in command(p) for t in _TRACKERS)}


def alive(pid: int) -> bool:
    """Whether this process lives."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command(pid: int) -> str:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def shared_memory(pids: set[int]) -> set[Path]:
    """The files of shared memory, semaphores among them, that these processes have mapped and that have a name."""
    found = set()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:  # it ended meanwhile
            continue
        found |= {Path(line.split(maxsplit=5)[-1]) for line in lines if "/dev/shm/" in line}
    return {path for path in found if path.exists()}


def open_files() -> dict[int, str]:
    """What the files that this process has open lead to, by their number, without the numbers that pipes and sockets
    have of their own."""
    links = {}
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed, as that of the folder itself
            links[int(fd.name)] = re.sub(r":\[\d+\]$", "", str(fd.readlink()))
    return links


def segments() -> int:
    """How many nameless segments of shared memory this process has open."""
    return sum(link.startswith("/memfd:flsim") for link in open_files().values())


def mapped() -> int:
    """Bytes of such segments that this process has mapped."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "/memfd:flsim" in line:
            begin, end = line.split()[0].split("-")
            total += int(end, 16) - int(begin, 16)
    return total


def kill(pid: int) -> None:
    """kill -9, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: not alive(pid), 10), f"process {pid} outlives SIGKILL"


def listening(pids: set[int]) -> set[str]:
    """``address port`` of each TCP socket that these processes listen on."""
    sockets: dict[str, str] = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                # The kernel writes each 32-bit word of an address in the host's byte order.
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                sockets[fields[9]] = f"{socket.inet_ntop(family, b''.join(words))} {int(port, 16)}"
    found = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(fd.readlink())
            except OSError:  # it was closed meanwhile
                continue
            if target.startswith("socket:[") and target[8:-1] in sockets:
                found.add(sockets[target[8:-1]])
    return found


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """No file of this process, nor a segment of its shared memory, grows beyond so many bytes: as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
