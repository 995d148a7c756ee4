"""Clause 8: other hosts."""

from __future__ import annotations

import shutil

from flsim.code import Code, Reference
from flsim.envelope import Generators
from flsim.errors import BackendBroken
from flsim.fleet import Kind
from flsim.job import Job, JobKind, job_digest
from flsim.payload import blob_of
from flsim.project import Project, load_project
from flsim.records import RecordDict
from flsim.testing.apps import client
from flsim.testing.checks.registry import check
from flsim.testing.checks.servers import unreached
from flsim.testing.checks.tools import (
    temporary_folder,
    values,
)
from flsim.testing.subject import Subject
from flsim.wire import JOB_WANTED, Packed, Terms, outcomes_of, pack_lease, unpack_reply, with_job


@check(8, "hosts")
def an_app_runs_where_its_folder_is_not(subject: Subject) -> None:
    """The app's folder is gone when the lease comes: the worker asks for the job, and has the app from there."""
    with subject.desk() as desk, temporary_folder() as folder:
        (folder / "far_away").mkdir()
        (folder / "far_away" / "__init__.py").write_text(_FAR_AWAY)
        (folder / "far_away" / "word.txt").write_text("there")
        code = Code.of_folder(folder)
        reference = Reference(code, "far_away", "client")
        job = Job(1, 7, 1, {}, (JobKind(reference, {}, desk.need),), {code.digest: code.archive()}).encoded()
        shutil.rmtree(folder / "far_away")
        desk.start()
        packed = Packed(1, 2, 0, "query", "", 0.0, None, blob_of(RecordDict()), None)
        frames = pack_lease([packed], Terms(1, "", job_digest(job), 0, Generators.SEED_AND_RESTORE))
        back = desk.result(desk.backend.submit(frames, desk.need, desk.place()))
        assert unpack_reply(back).status == JOB_WANTED, "a worker that does not have the job does not ask for it"
        back = desk.result(desk.backend.submit(with_job(frames, job), desk.need, desk.place()))
        assert values(outcomes_of(unpack_reply(back), back.buffers)[0])["word"] == "there"


_FAR_AWAY = """
from pathlib import Path
from flsim import ClientApp, ConfigRecord, Message, RecordDict

client = ClientApp()

@client.query()
def answer(msg, context):
    word = Path(__file__).with_name("word.txt").read_text()
    return Message(RecordDict({"values": ConfigRecord({"word": word})}), reply_to=msg)
"""


@check(8, "hosts")
def an_edited_app_runs_anew_where_its_folder_is_not(subject: Subject) -> None:
    """An app whose folder is gone when its messages are sent, run twice with an edit between: each run is of the code
    that it began with, also where both met the same workers."""
    with temporary_folder() as folder:
        for word in ("first", "second"):
            app = folder / "app"
            app.mkdir()
            (app / "pyproject.toml").write_text(_EDITED_TABLE)
            (app / "edited.py").write_text(_EDITED.format(word=word, folder=str(app), away=str(folder / word)))
            result = subject.run_project(load_project(app))
            words = result.state.config_records["words"]
            assert set(words.values()) == {word}, f"the {word} version was started, and {dict(words)} ran"


_EDITED_TABLE = """
[tool.flsim]
server = "edited:server"
client = "edited:client"
nodes = 8
"""

_EDITED = """
import os
from flsim import ClientApp, ConfigRecord, Message, RecordDict, ServerApp

server, client = ServerApp(), ClientApp()

@client.query()
def answer(msg, context):
    return Message(RecordDict({{"values": ConfigRecord({{"word": "{word}"}})}}), reply_to=msg)

@server.main()
def main(grid, context):
    os.rename("{folder}", "{away}")
    replies = grid.send_and_receive(Message(RecordDict(), n, "query") for n in grid.get_node_ids())
    context.state["words"] = ConfigRecord({{str(i): r.content["values"]["word"] for i, r in enumerate(replies)}})
"""


@check(8, "hosts")
def what_the_app_needs_and_a_host_lacks_is_named(subject: Subject) -> None:
    """A distribution that the app needs and no worker has ends the run before its ServerApp is called."""
    lacking = "a-distribution-that-is-nowhere"
    kinds = (Kind("default", client, 4),)
    project = Project("check", unreached, kinds, declared=False, requirements=(lacking,))
    try:
        subject.run_project(project)
    except BackendBroken as e:
        assert lacking in str(e), f"the distribution is not named: {e}"
        return
    raise AssertionError("the run ended well, though its app needs what there is not")
