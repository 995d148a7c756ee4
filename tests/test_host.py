"""What of the host a process may use, as affinity, control groups and limits leave it."""

import os
import platform
import sys
from pathlib import Path

import pytest
from helpers import execute, write

from flsim.backend import HostOptions
from flsim.errors import ConfigError
from flsim.host import host_cpu_model, host_cpus, host_gpus, host_memory

CPUS = len(os.sched_getaffinity(0))
HOST = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
GIB = 2**30


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", CPUS), ("50000 100000", 1.0), ("150000 100000", min(1.5, CPUS)), ("9900000 100000", CPUS)],
)
def test_the_cpu_quota_of_a_control_group_counts_and_is_never_less_than_one(
    tmp_path: Path, quota: str, expected: float
) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": quota})
    assert host_cpus(root) == expected


def test_the_quota_of_a_group_further_out_counts_too(tmp_path: Path) -> None:
    files = {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000", "a/b/memory.max": "max", "memory.max": str(GIB)}
    root = write(
        tmp_path, {"proc/self/cgroup": "0::/a/b\n"} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    )
    assert (host_cpus(root), host_memory(root)) == (1.0, GIB)


def test_control_groups_of_version_one_count(tmp_path: Path) -> None:
    groups = "3:cpu,cpuacct:/job\n2:memory:/job\n1:name=systemd:/\n"
    files = {
        "cpu/job/cpu.cfs_quota_us": "100000\n",
        "cpu/job/cpu.cfs_period_us": "100000\n",
        "memory/job/memory.limit_in_bytes": f"{GIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    root = write(
        tmp_path, {"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    )
    assert (host_cpus(root), host_memory(root)) == (1.0, GIB)


def test_without_control_groups_it_is_the_affinity_and_all_memory(tmp_path: Path) -> None:
    assert (host_cpus(tmp_path), host_memory(tmp_path)) == (CPUS, HOST)


def test_a_container_whose_group_is_named_from_outside_is_read_at_its_mount(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/docker/1234\n",
            "sys/fs/cgroup/memory.max": str(GIB),
            "sys/fs/cgroup/cpu.max": "max 1",
        },
    )
    assert (host_cpus(root), host_memory(root)) == (CPUS, GIB)


def test_the_model_of_the_cpus_is_what_the_host_tells(tmp_path: Path) -> None:
    text = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nprocessor\t: 1\nmodel name\t: Another\n"
    assert host_cpu_model(write(tmp_path / "a", {"proc/cpuinfo": text})) == "Some CPU @ 2.00GHz"
    assert host_cpu_model(tmp_path / "nothing") == (platform.processor() or platform.machine())


@pytest.mark.parametrize("limit", ["-v", "-d"])
def test_the_limits_of_the_shell_count(limit: str) -> None:
    code = "from flsim.host import host_memory; print(host_memory())"
    done = execute("sh", "-c", f'ulimit {limit} 8000000; exec "$0" -c "$1"', sys.executable, code)
    assert done.stdout.strip() == str(8_000_000 * 1024), done.stderr


def test_the_affinity_counts() -> None:
    code = "import os; os.sched_setaffinity(0, {0}); from flsim.host import host_cpus; print(host_cpus())"
    assert execute(sys.executable, "-c", code).stdout.strip() == "1.0"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("0,2", ["0", "2"]), ("", []), ("-1", []), ("1,-1,0", ["1"]), ("GPU-8f3c, 1", ["GPU-8f3c", "1"])],
)
def test_the_gpus_are_those_that_cuda_may_see(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert host_gpus() == expected


def test_without_that_variable_they_are_the_devices_that_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    write(tmp_path, {f"dev/nvidia{name}": "" for name in ("0", "1", "10", "2", "ctl", "-uvm")})
    assert host_gpus(tmp_path) == ["0", "1", "2", "10"]


def test_declared_gpus_are_taken_of_those_that_cuda_may_see_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert HostOptions(gpus=2).devices() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert HostOptions(gpus=1).devices() == ("5",)
    assert HostOptions().resources().gpus == 2
    with pytest.raises(ConfigError, match="gpus=3, and CUDA_VISIBLE_DEVICES=5,7 leaves this process 2"):
        HostOptions(gpus=3).devices()
    with pytest.raises(ConfigError, match="gpus is zero or more, not -1"):
        HostOptions(gpus=-1).devices()
