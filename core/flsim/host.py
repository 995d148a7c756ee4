"""What of this host the process may use: cpus, memory, gpus, as affinity, control groups and limits leave them."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def host_cpus(root: Path = ROOT) -> float:
    """Cpus that this process may use, at least 1: those of its affinity, or the quota of its control groups (as of a
    container), where that is less.

    Args:
        root: of the file system, for tests.
    """
    cpus: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _control_groups("cpu", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # there is no such file, or it says "max"
            quota, period = (folder / "cpu.max").read_text().split()
            cpus = min(cpus, int(quota) / int(period))
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # the files of version 1
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                cpus = min(cpus, int(quota) / int(period))
    return max(1.0, cpus)


def host_cpu_model(root: Path = ROOT) -> str:
    """What the cpus of this host are called, as far as it tells.

    Args:
        root: of the file system, for tests.
    """
    with contextlib.suppress(OSError):  # not Linux
        if found := re.search(r"^model name\s*:\s*(.+)$", (root / "proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


def host_memory(root: Path = ROOT) -> int:
    """Bytes of memory that this process may use: the host's, or what its control groups or its own limits (``ulimit
    -v``, ``-d``) leave of it.

    Args:
        root: of the file system, for tests.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            memory = min(memory, soft)
    for folder in _control_groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
                memory = min(memory, int((folder / name).read_text()))
    return memory


def host_gpus(root: Path = ROOT) -> list[str]:
    """The gpus that this process may use, as CUDA_VISIBLE_DEVICES names them: what that variable says, where it is set,
    or those for which there is a device of NVIDIA's.

    Args:
        root: of the file system, for tests.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        invalid = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:invalid]  # CUDA sees none from the first on that is none
    numbers = [m[1] for d in (root / "dev").glob("nvidia*") if (m := re.fullmatch(r"nvidia(\d+)", d.name))]
    return sorted(numbers, key=int)


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the control groups that this process is in, of both versions, from the innermost to the root."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # it has none
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if controllers:
            if controller not in controllers.split(","):
                continue
            base /= controller
        group = base / path.lstrip("/")
        yield from (group, *(p for p in group.parents if p.is_relative_to(base)))
