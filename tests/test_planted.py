"""The contract suite finds each planted fault; and a suite that found none would be worth nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flsim_pool", reason="the example backend flsim-pool is not installed")

import planted

from flsim.backend import Backend
from flsim.testing import CHECKS, BackendContract, Subject

FOUND_BY = {
    planted.LosesAReply: "each_lease_comes_back_once",
    planted.CompletesTwice: "each_lease_comes_back_once",
    planted.RunsTooManyAtOnce: "no_place_has_more_than_the_options_give",
    planted.IgnoresAResource: "a_resource_that_there_is_not_is_refused",
    planted.LeaksAProcess: "stop_may_be_called_twice_and_leaves_no_thread_and_no_process",
    planted.WritesTheJobDown: "what_is_secret_is_in_no_file_no_argument_and_no_output",
    planted.LeaksAFile: "what_starts_again_and_again_leaves_nothing",
    planted.HangsOnStop: "stop_may_be_called_twice_and_leaves_no_thread_and_no_process",
    planted.DropsEqualSubmissions: "equal_submissions_both_run",
    planted.MixesUpSeeds: "seeds_are_of_the_node_and_its_count",
    planted.DrawsBesideACall: "nothing_draws_from_the_generators_beside_a_call",
    planted.OneDeathFailsItsNeighbours: "a_death_costs_no_other_lease",
    planted.ForksTheDriver: "what_a_worker_cannot_import_is_the_error_of_its_message",
}


@pytest.fixture(autouse=True)
def what_is_leaked_on_purpose_ends() -> Iterator[None]:
    yield
    for process in planted.LEAKED:
        process.kill()
        process.wait()
    planted.LEAKED.clear()
    for file in planted.OPENED:
        file.close()
    planted.OPENED.clear()


@pytest.mark.parametrize("cls", FOUND_BY, ids=lambda cls: cls.__name__)
def test_a_planted_fault_is_found(cls: type[Backend], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for a driver of its own
    (check,) = (c for c in CHECKS if c.name == FOUND_BY[cls])
    result = check.result(Subject(planted.spec_of(cls), {"cpus": 2.0}, patience=3))
    assert result.outcome == "failed", f"{cls.__doc__} is not found by {check.name}"
    assert result.reason
    print(f"{cls.__name__}: {check.name}: {result.reason}")


def test_a_check_that_is_known_to_fail_must_fail() -> None:
    (check,) = (c for c in CHECKS if c.name == "equal_submissions_both_run")
    known = {check.name: "a reason"}
    good = Subject(planted.spec_of(planted.MixesUpSeeds), {"cpus": 2.0}, known=known)
    with pytest.raises(pytest.fail.Exception, match=r"known to fail \(a reason\), and it does not"):
        BackendContract().test_clause(good, check)
    bad = Subject(planted.spec_of(planted.DropsEqualSubmissions), {"cpus": 2.0}, known=known)
    with pytest.raises(pytest.xfail.Exception, match="a reason: "):
        BackendContract().test_clause(bad, check)


def test_a_check_of_what_is_not_honoured_is_skipped_by_name() -> None:
    (check,) = (c for c in CHECKS if c.name == "an_app_runs_where_its_folder_is_not")
    with pytest.raises(pytest.skip.Exception, match="MixesUpSeeds does not honour hosts"):
        BackendContract().test_clause(Subject(planted.spec_of(planted.MixesUpSeeds)), check)
