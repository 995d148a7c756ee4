"""Clause 11: what is secret stays in the memory of the processes that need it, and out of reach of other users."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest import mock

from flsim.apps import Context, ServerApp
from flsim.folder import HeldFolder
from flsim.grid import Grid
from flsim.message import Message
from flsim.records import ConfigRecord, RecordDict
from flsim.testing.apps import note, notes
from flsim.testing.checks.registry import check
from flsim.testing.checks.tools import temporary_folder
from flsim.testing.subject import Subject
from flsim.testing.watch import children, command, shared_memory, until

_CONFIGURED, _EXPORTED = "canary-in-the-config", "canary-in-the-environment"

_keep = ServerApp()


@check(11)
def what_is_secret_is_in_no_file_no_argument_and_no_output(subject: Subject) -> None:
    """While a driver of its own has a run at work, with a secret in the app's config and one in the environment, and
    again when all is written and nothing removed yet, these are in none of its files, of the arguments of its
    processes, of its lines and errors; and no other user can open a file of the run, nor its shared memory."""
    import cloudpickle

    # Not within a folder that is closed to others already; and short, since a socket's path may hold 107 bytes.
    files = Path(tempfile.mkdtemp(prefix="f-", dir="/tmp" if Path("/tmp").is_dir() else None))
    files.chmod(0o755)
    try:
        with temporary_folder() as folder:
            script = "import pickle, sys; from flsim.testing.checks.secrets import drive; drive(*pickle.load(sys.stdin.buffer))"  # noqa: E501
            environment = {**os.environ, "TMPDIR": str(files), "SECRET": _EXPORTED}
            with (folder / "printed").open("wb") as printed:
                driver = subprocess.Popen(
                    [sys.executable, "-c", script],
                    stdin=subprocess.PIPE, stdout=printed, stderr=printed, env=environment,
                )  # fmt: skip
            with driver:
                assert driver.stdin is not None
                driver.stdin.write(cloudpickle.dumps((subject, str(folder))))
                driver.stdin.close()
                try:
                    at_work = until(lambda: bool(notes(folder)) or driver.poll() is not None, subject.patience)
                    assert at_work and notes(folder), f"the run is not at work: {(folder / 'printed').read_text()}"
                    _inspect(driver.pid, files)
                    (folder / "go on").touch()
                    ended = until(lambda: (folder / "over").exists() or driver.poll() is not None, subject.patience)
                    assert ended, (folder / "printed").read_text()
                    _inspect(driver.pid, files)  # again, with all that is written as a run goes on and ends
                    (folder / "leave").touch()
                    assert driver.wait(subject.patience) == 0, (folder / "printed").read_text()
                    _inspect_files(files)
                finally:
                    driver.kill()
            _absent((folder / "printed").read_bytes(), "what was printed")
            assert b"no data" in (folder / "printed").read_bytes(), "the errors were not printed, so none was looked at"
    finally:
        shutil.rmtree(files, ignore_errors=True)  # a process that is ending may still write to it


def _inspect(driver: int, files: Path) -> None:
    processes = {driver, *children(driver)}
    for pid in processes:
        _absent(command(pid).encode(), f"the arguments of {command(pid)[:40]!r}")
    _inspect_files(files)
    memory = shared_memory(processes)
    open_ = [p for p in (*files.iterdir(), *memory) if not p.is_symlink() and p.stat().st_mode & 0o077]
    assert not open_, f"other users can open {open_}"
    find = shutil.which("find")
    if os.geteuid() == 0 and find is not None:  # who may become another user tries it as one
        tried = subprocess.run(
            [find, str(files), *map(str, memory), "-mindepth", "1", "-readable", "-print"],
            user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not tried.stdout, f"another user can read {tried.stdout}"


def _inspect_files(files: Path) -> None:
    for path in files.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(FileNotFoundError):  # a process that is ending has removed it
                _absent(path.read_bytes(), str(path))


def _absent(content: bytes, where: str) -> None:
    for secret in (_CONFIGURED, _EXPORTED):
        assert secret.encode() not in content, f"the {secret.replace('-', ' ')} is in {where}"


def drive(subject: Subject, folder: str) -> None:
    """Be the driver, who shows the files of the run once more when nothing writes to them any longer."""
    remove = HeldFolder.remove

    def shown(held: HeldFolder) -> None:
        Path(folder, "over").touch()
        until(Path(folder, "leave").exists, 60)
        remove(held)

    with mock.patch.object(HeldFolder, "remove", shown):
        subject.run(_keep, nodes=4, config={"secret": _CONFIGURED, "folder": folder})


@_keep.main()
def _keep_secrets(grid: Grid, context: Context) -> None:
    folder = str(context.run_config["folder"])

    def asked(node: int, action: str, **plan: bool | float | str) -> Message:
        return Message(RecordDict({"plan": ConfigRecord(plan)}), node, f"query.{action}")

    nodes = grid.get_node_ids()
    for reply in grid.send_and_receive(
        [asked(nodes[0], "raise", how="NoData"), asked(nodes[1], "return", what="none")]
    ):
        print(reply.error, reply.error.traceback)
    ids = grid.push_messages([asked(nodes[2], "work", folder=folder, seconds=1.0)])
    note(folder)
    if not until(Path(folder, "go on").exists, 60):
        raise TimeoutError("nobody said that the run may go on")
    grid.pull_messages(ids, timeout=60)
