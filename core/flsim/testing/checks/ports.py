"""Clause 11: ports."""

from __future__ import annotations

import os

from flsim.testing.checks.registry import check
from flsim.testing.subject import Subject
from flsim.testing.watch import children, listening


@check(11)
def nothing_listens_beyond_this_host(subject: Subject) -> None:
    """What this process and its children listen on, once leases have run, is on 127.0.0.1 or ::1."""
    before = listening({os.getpid()})
    with subject.desk() as desk:
        desk.start()
        desk.answer("echo")
        found = listening({os.getpid(), *children()}) - before
        open_ = sorted(a for a in found if not a.startswith(("127.", "::1 ", "::ffff:127.")))
        assert not open_, f"these can be reached from other hosts: {open_}"
