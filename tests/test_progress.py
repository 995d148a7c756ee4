"""What a run shows while it goes on: counted right, and fit for where it goes."""

from __future__ import annotations

import io
import json
import logging
import math
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import write_app
from installed import skip_without
from terminal import squeezed, terminal

import flsim
from flsim import ClientApp, Context, Error, ErrorCode, Grid, Message, RecordDict, ServerApp
from flsim.events import (
    Event,
    LostWorker,
    Observers,
    Pulled,
    Pushed,
    Reported,
    Returned,
    RunFinished,
    RunStarted,
)  # fmt: skip
from flsim.heart import Entry
from flsim.hooks import RunView
from flsim.payload import EMPTY
from flsim.wire import Outcome
from flsim_progress.plain import PlainProgress
from flsim_progress.plugin import flsim_observer
from flsim_progress.tally import POINTS, Curve, Tally, rounds_of
from flsim_progress.view import duration, sparkline, view
from flsim_progress.words import SHOWN_ALIKE, SHOWN_OF_A_KIND, Lines

STARTED = RunStarted("app", "serial", ("here: 1 cpu",), slots=2, nodes=10, seed=1)


def returned(*errors: Error | None, lease: int | None = None, printed: str = "") -> Returned:
    """As many messages as ``errors`` ended, to nodes 2 and so on."""
    ended: list[Any] = [
        (
            Entry(i, 2 + i, 0, "train", None, SimpleNamespace(blob=EMPTY), 0.0),
            e,
            Outcome(i, e, EMPTY, None, "", 0.0, 0.0, 0.1, 0.0, printed, 0),
        )
        for i, e in enumerate(errors)
    ]
    return Returned("host:1", ended, lease)


def tally(*events: tuple[float, Event], rounds: int | None = None) -> Tally:
    made = Tally(rounds)
    for now, event in events:
        made.take(event, now)
    return made


# ---- counted


def test_messages_are_done_failed_or_in_flight() -> None:
    t = tally((0, STARTED), (0, Pushed(5)), (1, returned(None, Error(2, "no"))))
    assert (t.pushed, t.ended, t.failed, t.in_flight) == (5, 2, 1, 3)


def test_a_worker_is_at_work_from_the_pull_of_its_lease_until_it_comes_back_or_is_lost() -> None:
    t = tally((0, STARTED), (0, Pulled(1, 3)), (0, Pulled(2, 1)), (0, Pulled(3, 1)))
    assert t.at_work == 3
    t.take(returned(lease=1), 1)
    t.take(LostWorker("signal", "SIGKILL", 1, lease=2), 1)
    t.take(returned(None), 1)  # cancelled: its worker is still at it
    assert t.at_work == 1


def test_a_run_tells_its_observers_of_each_lease_that_it_began_and_that_it_ended() -> None:
    class Watching:
        def __init__(self) -> None:
            self.events: list[Event] = []

        def on(self, events: Any) -> None:
            self.events += events

        def close(self) -> None:
            pass

    from flsim.plan import make_plan
    from flsim.plugins import Plugins
    from flsim.project import Project

    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(msg: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=msg)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        grid.send_and_receive(Message(RecordDict(), n, "train") for n in grid.get_node_ids())

    watching = Watching()
    project = Project("app", server, (flsim.Kind("default", client, 30),))
    make_plan(Plugins(), project, backend="serial", seed=1).run([watching])
    pulled = [e for e in watching.events if isinstance(e, Pulled)]
    back = [e for e in watching.events if isinstance(e, Returned)]
    assert sum(e.messages for e in pulled) == sum(map(len, back)) == 30
    assert [e.lease for e in pulled] == [e.lease for e in back]


def test_the_rate_is_of_late_and_at_the_end_of_the_whole_run() -> None:
    t = tally((0, STARTED), (0, Pushed(1000)))
    for second in range(1, 21):
        t.take(returned(*[None] * (10 if second <= 10 else 2)), second)
        rate = t.rate(second)
    assert rate == pytest.approx(2)
    t.take(RunFinished(24.0), 24)
    assert t.rate(99) == pytest.approx(120 / 24)


@pytest.mark.parametrize("key", ["rounds", "num-rounds", "num-server-rounds"])
def test_the_number_of_rounds_is_known_from_the_config(key: str) -> None:
    assert rounds_of({"other": 3, key: 50}) == 50


@pytest.mark.parametrize("value", ["50", 5.0, True, 0, -1])
def test_what_is_no_whole_number_of_rounds_is_none(value: Any) -> None:
    assert rounds_of({"rounds": value}) is None


def test_the_end_is_reckoned_from_the_last_rounds() -> None:
    t = tally((0, STARTED), rounds=20)
    assert t.left(5) is None
    t.take(Reported(1, {}), 100)
    assert t.left(100) == pytest.approx(1900)
    for round in range(2, 13):
        t.take(Reported(round, {}), 100 + 2 * round)
    assert t.left(124) == pytest.approx(16)
    assert t.left(125) == pytest.approx(15)
    assert t.left(999) == 0


@pytest.mark.parametrize(("rounds", "round"), [(None, 3), (20, 0), (20, 21)])
def test_no_end_is_reckoned_where_it_cannot_be_known(rounds: int | None, round: int) -> None:
    assert tally((0, STARTED), (10, Reported(round, {})), rounds=rounds).left(10) is None


def test_what_one_client_reported_is_no_round() -> None:
    t = tally((0, STARTED), (1, Reported(3, {"loss": 1.0}, node=5)))
    assert t.round is None
    assert not t.curves


def test_a_metric_of_any_number_of_rounds_keeps_a_bounded_curve_of_the_same_mean() -> None:
    curve = Curve()
    for i in range(POINTS * 16):
        curve.add(float(i))
    assert len(curve.points) <= POINTS
    assert curve.last == POINTS * 16 - 1
    assert curve.points == sorted(curve.points)
    assert sum(curve.points) / len(curve.points) == pytest.approx((POINTS * 16 - 1) / 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, "warm", True])
def test_a_metric_that_is_no_finite_number_is_shown_and_is_no_point(value: Any) -> None:
    t = tally((0, STARTED), (1, Reported(1, {"m": value})))
    assert t.curves["m"].points == []
    assert str(value) in view(t, 1, 80, 20)[-1].plain


# ---- shown


def test_a_sparkline_goes_from_the_lowest_to_the_highest_in_its_width() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 10) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0] * 3, 10) == "▄▄▄"
    assert sparkline([-1e308, 1e308], 10) == "▁█"
    assert sparkline([float(i // 10) for i in range(80)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([], 10) == ""


def test_durations_are_short() -> None:
    assert [duration(s) for s in (0, 61, 3661)] == ["0:00", "1:01", "1:01:01"]


@pytest.mark.parametrize("width", [10, 20, 40, 80, 200])
@pytest.mark.parametrize("height", [2, 5, 20])
def test_the_display_fits_into_any_screen(width: int, height: int) -> None:
    metrics = {f"a-metric-with-a-long-name-{i}": 10.0**i for i in range(20)} | {"wide 漢字": 1.0}
    t = tally(
        (0, STARTED), (0, Pushed(10**9)), *((i, Reported(i, metrics)) for i in range(1, 99)), rounds=1000
    )  # fmt: skip
    t.take(returned(Error(2, "no")), 99)
    lines = view(t, 100, width, height)
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width


def test_failures_alike_are_shown_a_few_times_and_other_ones_still() -> None:
    lines = Lines()
    same = list(lines.of(returned(*[Error(2, "no data")] * 50)))
    assert len(same) == SHOWN_ALIKE
    assert same[0].text == "node 2 (partition 0): train failed: CLIENT_APP_RAISED_EXCEPTION: no data"
    assert same[-1].text.endswith("(more like it are counted only)")
    assert len(list(lines.of(returned(Error(2, "other"))))) == 1
    many = list(lines.of(returned(*[Error(2, f"reason {i}") for i in range(50)])))
    assert len(same) + 1 + len(many) == SHOWN_OF_A_KIND


def test_what_was_cancelled_is_counted_and_is_no_line() -> None:
    event = returned(Error(ErrorCode.CANCELLED, "the run is over"))
    assert list(Lines().of(event)) == []
    assert tally((0, STARTED), (0, Pushed(1)), (1, event)).failed == 1


def test_what_a_client_prints_is_shown_with_its_node_and_without_power_over_the_terminal() -> None:
    lines = [line.text for line in Lines().of(returned(None, printed="a\x1b[2J\n[red]b\x07\u202e\n"))]
    assert lines == ["node 2 (partition 0) | a�[2J", "node 2 (partition 0) | [red]b��"]


@pytest.mark.parametrize("out", [io.StringIO(), io.TextIOWrapper(io.BytesIO())], ids=["a buffer", "a file"])
def test_where_there_is_no_terminal_there_are_plain_lines(out: Any) -> None:
    assert type(flsim_observer(RunView("app", "serial", 3, 1, {}, out))) is PlainProgress


def test_quiet_is_no_progress_at_all() -> None:
    assert flsim_observer(RunView("app", "serial", 3, 1, {}, None)) is None


# ---- in a terminal

TALKING = """
import sys, time
from flsim import ClientApp, Message, MetricRecord, RecordDict, ServerApp, weighted_mean

server, client = ServerApp(), ClientApp()

@client.train()
def train(msg, context):
    partition = context.node_config["partition-id"]
    if partition == 3:
        print("seen by \\x1b[2J partition [bold]3[/bold]")
    if partition == 4:
        raise ValueError("no data [red]here[/red]")
    return Message(RecordDict({"m": MetricRecord({"num-examples": 1, "loss": context.rng.random()})}), reply_to=msg)

@server.main()
def main(grid, context):
    for round in range(1, 4):
        replies = grid.send_and_receive([Message(RecordDict(), n, "train") for n in grid.get_node_ids()])
        grid.report(round, loss=weighted_mean(replies)["m"]["loss"])
        print("the server is in round", round)
    if context.run_config["wait"]:
        print("now it waits", file=sys.stderr)
        time.sleep(300)
"""

TABLE = """
[tool.flsim]
server = "app:server"
client = "app:client"
nodes = 6
seed = 1
[tool.flsim.config]
rounds = 3
wait = false
"""


def talking(folder: Path) -> Path:
    return write_app(folder / "talking", TABLE, app=TALKING)


@pytest.mark.parametrize("backend", ["serial", "loky"])
@pytest.mark.parametrize(("columns", "rows"), [(120, 40), (40, 20)])
def test_the_display_stays_below_what_is_printed(tmp_path: Path, backend: str, columns: int, rows: int) -> None:
    skip_without(backend)
    with terminal("run", talking(tmp_path), "-b", backend, columns=columns, rows=rows) as screen:
        assert screen.end() == 0
        assert screen.as_it_was
        seen = screen.scrolled
        for text in (
            "node 5 (partition 3) | seen by �[2J partition [bold]3[/bold]",
            "node 6 (partition 4): train failed: CLIENT_APP_RAISED_EXCEPTION: ValueError: no data [red]here[/red]",
            *(f"the server is in round {i}" for i in (1, 2, 3)),
        ):
            assert squeezed(text) in seen
        frame = next(i for i, line in enumerate(screen.lines) if line.startswith("round 3/3  ━"))
        assert [line for line in screen.lines if line.startswith("round ")] == [screen.lines[frame]]
        assert screen.lines[frame + 1].startswith("18 done  3 failed  ")
        assert screen.lines[frame + 2].startswith("loss  0.")
        assert not any("seen by" in line or "the server" in line for line in screen.lines[frame:])


def test_ctrl_c_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    with terminal("run", talking(tmp_path), "-b", "serial", "--set", "wait=true") as screen:
        screen.see(lambda: squeezed("now it waits") in screen.scrolled and screen.cursor_is_hidden)
        screen.type("\x03")
        assert screen.end() == 128 + signal.SIGINT
        assert screen.as_it_was
        assert screen.lines[-1] == "interrupted: the run was ended"


def test_a_serverapp_that_raises_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", TABLE, app=TALKING.replace("time.sleep(300)", "raise KeyError('oops')"))
    with terminal("run", app, "-b", "serial", "--set", "wait=true") as screen:
        assert screen.end() == 1
        assert screen.as_it_was
        assert screen.lines[-1] == "KeyError: 'oops'"


def test_a_run_that_does_not_come_to_its_close_leaves_the_terminal_as_it_was() -> None:
    script = """
import sys
from flsim.events import RunStarted
from flsim_progress.live import LiveProgress
LiveProgress(sys.stderr, None).on([RunStarted("app", "serial", (), slots=1, nodes=1, seed=1)])
"""
    with terminal("-c", script, command=sys.executable) as screen:
        assert screen.end() == 0
        assert b"\x1b[?25l" in screen.raw, "the cursor was never hidden, so this test would show nothing"
        assert screen.as_it_was


def test_a_last_line_without_its_end_is_shown(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", TABLE, app=TALKING + "    print('no end', end='')\n")
    with terminal("run", app, "-b", "serial") as screen:
        assert screen.end() == 0
        assert "no end" in screen.lines


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    with terminal("run", talking(tmp_path), "-b", "serial", env={"TERM": "dumb"}) as screen:
        assert screen.end() == 0
        assert b"\x1b" not in screen.raw
        assert "\n".join(screen.lines).count("round   ") == 3


def test_a_quiet_run_shows_only_what_the_serverapp_prints(tmp_path: Path) -> None:
    with terminal("run", talking(tmp_path), "-b", "serial", "-q") as screen:
        assert screen.end() == 0
        assert screen.lines == [f"the server is in round {i}" for i in (1, 2, 3)]


def test_with_json_the_display_is_on_stderr_and_the_result_in_its_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with terminal("run", talking(tmp_path), "-b", "serial", "--json", stdout=out) as screen:
        assert screen.end() == 0
        assert squeezed("round 3/3") in screen.scrolled
        assert squeezed("the server is in round 2") in screen.scrolled
    assert json.loads(out.read_text())["metrics"][2]["round"] == 3


def test_what_a_script_prints_to_a_file_goes_there_while_the_display_is_on_stderr(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"import flsim; flsim.run({str(talking(tmp_path))!r}, backend='serial')"
    with terminal("-c", script, command=sys.executable, stdout=out) as screen:
        assert screen.end() == 0
        assert screen.as_it_was
        assert squeezed("18 done") in screen.scrolled
    assert out.read_text().splitlines() == [f"the server is in round {i}" for i in (1, 2, 3)]


def test_a_script_that_draws_on_the_terminal_itself_gets_plain_lines(tmp_path: Path) -> None:
    script = f"""
import flsim, sys
from rich.console import Console
from rich.live import Live
with Live("mine", console=Console(stderr=True), auto_refresh=False):
    flsim.run({str(talking(tmp_path))!r}, backend='serial')
"""
    with terminal("-c", script, command=sys.executable) as screen:
        assert screen.end() == 0
        assert screen.lines[-1] == "mine"
        assert "\n".join(screen.lines).count("round   ") == 3


def test_a_display_that_cannot_be_drawn_is_told_of_once_and_costs_the_run_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from flsim_progress.live import LiveProgress

    class Gone(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            raise OSError("the terminal is gone")

    observers = Observers([LiveProgress(Gone(), None)])
    observers.start()
    with caplog.at_level(logging.ERROR):
        observers.put(STARTED)
        observers.flush()
        observers.put(Pushed(3))
        observers.close()
    assert [r.getMessage() for r in caplog.records] == ["observer LiveProgress raised; it is told no more"]
