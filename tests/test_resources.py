"""Resources, places and the book of what is at work there; kinds of node and the fleet."""

from __future__ import annotations

from typing import Any

import pytest

from flsim import ClientApp, Kind, Resources
from flsim.backend import HostOptions
from flsim.errors import ConfigError, UnknownName
from flsim.fleet import Fleet
from flsim.host import host_cpus, host_memory
from flsim.resources import Place, Room, parse_bytes, slots

CLIENT = ClientApp()


def place(leases: int = 100, **resources: Any) -> Place:
    return Place("a host", Resources(**resources), leases)


# ---- sizes


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("0", 0),
        ("1500", 1500),
        ("2GiB", 2 * 2**30),
        ("2gib", 2 * 2**30),
        ("2Gi", 2 * 2**30),
        ("2GB", 2 * 10**9),
        ("2G", 2 * 10**9),
        ("1.5 KiB", 1536),
        (" 500 MB ", 500 * 10**6),
        ("1TiB", 2**40),
        ("7B", 7),
        (4096, 4096),
        (4096.9, 4096),
    ],
)
def test_a_size_is_bytes_or_a_number_with_a_unit(text: str | float, bytes_: int) -> None:
    assert parse_bytes(text) == bytes_
    assert Resources(memory=text).memory == bytes_  # type: ignore[arg-type]  # a size is taken, as its docstring says


@pytest.mark.parametrize("size", ["", "lots", "2 XB", "-1", "1e3", "nan", "GiB", -1, float("nan"), float("inf"), True])
def test_what_is_no_size_is_refused_by_value_with_how_to_write_one(size: Any) -> None:
    with pytest.raises(ConfigError, match=rf"memory {size!r} is no size; write bytes, or a size such as '2GiB'"):
        Resources(memory=size)


@pytest.mark.parametrize("size", [None, [1], {"gib": 2}], ids=repr)
def test_a_size_of_another_type_is_refused_like_any_other(size: Any) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        Resources(memory=size)


# ---- Resources


def test_a_clientapp_needs_one_cpu_where_nothing_is_said() -> None:
    need = Resources()
    assert (need.cpus, need.gpus, need.memory, need.custom) == (1, 0, 0, {})
    assert need.amounts() == {"cpus": 10_000}


@pytest.mark.parametrize("amount", [-1, -0.1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["cpus", "gpus", "slots"])
def test_an_amount_that_is_negative_or_endless_is_refused_by_name(name: str, amount: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is zero or more, not {amount!r}"):
        Resources(**({"custom": {name: amount}} if name == "slots" else {name: amount}))


@pytest.mark.parametrize("amount", ["2", None, True, [1]], ids=repr)
@pytest.mark.parametrize("name", ["cpus", "gpus", "slots"])
def test_an_amount_that_is_no_number_is_refused_by_name(name: str, amount: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        Resources(**({"custom": {name: amount}} if name == "slots" else {name: amount}))
    assert str(raised.value) == f"{name} is a number, not {amount!r}"


def test_more_than_one_gpu_is_a_whole_number_of_them() -> None:
    assert Resources(gpus=2.0).gpus == 2
    with pytest.raises(ConfigError, match=r"gpus is a share below 1 or a whole number of devices, not 1\.5"):
        Resources(gpus=1.5)


@pytest.mark.parametrize(("cpus", "threads"), [(0, 1), (0.5, 1), (1, 1), (1.9, 1), (2, 2), (7.5, 7)])
def test_blas_gets_as_many_threads_as_there_are_whole_cpus_and_at_least_one(cpus: float, threads: int) -> None:
    assert Resources(cpus=cpus).threads == threads


def test_custom_resources_are_copied_and_kept_apart_from_the_others() -> None:
    given = {"cpus": 3.0}
    need = Resources(custom=given)
    given["cpus"] = 5
    assert need.amounts() == {"cpus": 10_000, "custom cpus": 30_000}


def test_resources_read_as_a_line() -> None:
    assert str(Resources()) == "1 cpu"
    assert str(Resources(0.5, 0.25, 3 * 2**29, {"fpga": 2})) == "0.5 cpu, 0.25 gpu, 1.5 GiB, 2 fpga"


# ---- room in a place


@pytest.mark.parametrize(
    ("has", "needs", "expected"),
    [
        ({"cpus": 4}, {"cpus": 1}, 4),
        ({"cpus": 1}, {"cpus": 0.1}, 10),
        ({"cpus": 1}, {"cpus": 1 / 3}, 3),
        ({"cpus": 4}, {"cpus": 1.5}, 2),
        ({"cpus": 1}, {"cpus": 2}, 0),
        ({"cpus": 8, "memory": "4GiB"}, {"cpus": 1, "memory": "1.5GiB"}, 2),
        ({"cpus": 8}, {"cpus": 1, "memory": 1}, 0),
        ({"cpus": 8, "gpus": 2}, {"cpus": 1, "gpus": 1}, 2),
        ({"cpus": 8, "gpus": 2}, {"cpus": 1, "gpus": 0.4}, 4),
        ({"cpus": 8, "gpus": 2}, {"cpus": 1, "gpus": 0.6}, 2),
        ({"cpus": 8, "gpus": 4}, {"cpus": 1, "gpus": 2}, 2),
        ({"cpus": 8, "gpus": 1}, {"cpus": 1, "gpus": 2}, 0),
        ({"cpus": 8, "custom": {"slot": 3}}, {"cpus": 1, "custom": {"slot": 1}}, 3),
        ({"cpus": 8}, {"cpus": 1, "custom": {"slot": 1}}, 0),
        ({"cpus": 1}, {"cpus": 0}, 100),
    ],
)
def test_as_many_leases_fit_as_the_scarcest_resource_allows(has: Any, needs: Any, expected: int) -> None:
    assert slots(place(**has), Resources(**needs)) == expected


@pytest.mark.parametrize("share", [6, 7])
def test_as_many_equal_shares_fit_as_make_one(share: int) -> None:
    assert slots(place(cpus=1), Resources(cpus=1 / share)) == share


def test_a_place_takes_no_more_leases_than_it_says() -> None:
    assert slots(place(leases=2, cpus=8), Resources()) == 2
    assert slots(place(leases=0, cpus=8), Resources()) == 0


def test_what_is_given_back_can_be_taken_again() -> None:
    room = Room(place(cpus=1, gpus=1, memory=10))
    need = Resources(cpus=0.5, gpus=0.5, memory=5)
    for _ in range(3):
        taken = [room.take(need), room.take(need)]
        assert taken == [(0,), (0,)]
        assert room.take(need) is None
        for devices in taken:
            assert devices is not None
            room.give_back(need, devices)
        assert room.busy == 0


def test_shares_go_to_the_fullest_device_that_has_room_so_that_whole_ones_stay_whole() -> None:
    room = Room(place(cpus=8, gpus=3))
    assert [room.take(Resources(gpus=0.5)) for _ in range(3)] == [(0,), (0,), (1,)]
    assert room.take(Resources(gpus=0.25)) == (1,)
    assert room.take(Resources(gpus=1)) == (2,)
    assert room.take(Resources(gpus=1)) is None
    assert room.take(Resources(gpus=0.25)) == (1,)


def test_a_share_does_not_lie_across_two_devices() -> None:
    room = Room(place(cpus=8, gpus=2))
    assert [room.take(Resources(gpus=0.6)) for _ in range(2)] == [(0,), (1,)]
    assert room.take(Resources(gpus=0.6)) is None
    assert room.take(Resources(gpus=0.4)) is not None


def test_several_whole_devices_are_given_together() -> None:
    room = Room(place(cpus=8, gpus=4))
    assert room.take(Resources(gpus=3)) == (0, 1, 2)
    assert room.take(Resources(gpus=2)) is None
    room.give_back(Resources(gpus=3), (0, 1, 2))
    assert room.take(Resources(gpus=2)) == (0, 1)


def test_what_does_not_fit_books_nothing() -> None:
    room = Room(place(cpus=2, memory=10))
    assert room.take(Resources(cpus=1, memory=11)) is None
    assert room.busy == 0
    assert room.take(Resources(cpus=2, memory=10)) == ()


def test_a_place_that_shrinks_keeps_what_is_at_work_and_one_that_grows_takes_more() -> None:
    room = Room(place(cpus=2, gpus=1))
    need = Resources(cpus=1, gpus=1)
    devices = room.take(need)
    assert devices == (0,)
    room.resize(place(cpus=1, gpus=1))
    assert room.take(Resources(cpus=1)) is None
    room.resize(place(cpus=4, gpus=2))
    assert room.take(need) == (1,)
    room.give_back(need, devices)
    assert room.take(need) == (0,)


def test_a_place_is_as_busy_as_its_cpus_or_its_leases() -> None:
    room = Room(place(leases=10, cpus=4))
    room.take(Resources(cpus=2))
    assert room.busy == 0.5
    for _ in range(6):
        room.take(Resources(cpus=0))
    assert room.busy == 0.7
    assert Room(place(leases=0)).busy == 1


def test_a_host_has_what_its_options_say_and_else_what_it_has() -> None:
    assert HostOptions(cpus=3, memory="1GiB").resources() == Resources(cpus=3, memory=2**30)
    assert HostOptions().resources() == Resources(cpus=host_cpus(), memory=host_memory())


@pytest.mark.parametrize("cpus", [0, -1, float("nan")])
def test_a_host_without_cpus_is_refused_by_value(cpus: float) -> None:
    with pytest.raises(ConfigError, match=f"cpus is more than zero, not {cpus!r}"):
        HostOptions(cpus=cpus).resources()


# ---- kinds and the fleet


@pytest.mark.parametrize("nodes", [0, -1, 2.0, "3", True, None], ids=repr)
def test_a_number_of_nodes_that_is_none_is_refused_by_value(nodes: Any) -> None:
    with pytest.raises(ConfigError, match=f"nodes is a whole number, one or more, not {nodes!r}"):
        Kind("default", CLIENT, nodes)


def test_nodes_are_numbered_from_two_through_the_kinds_in_order() -> None:
    fleet = Fleet([Kind("a", CLIENT, 3), Kind("b", CLIENT, 1), Kind("c", CLIENT, 2)])
    assert (fleet.nodes, fleet.end, fleet.node_ids()) == (6, 8, range(2, 8))
    assert [fleet.node_ids(k) for k in "abc"] == [range(2, 5), range(5, 6), range(6, 8)]
    assert [fleet.kind_of(n) for n in fleet.node_ids()] == [0, 0, 0, 1, 2, 2]


def test_a_million_nodes_are_a_range() -> None:
    assert Fleet([Kind("default", CLIENT, 10**6)]).node_ids() == range(2, 10**6 + 2)


def test_an_unknown_kind_is_named_with_the_nearest() -> None:
    fleet = Fleet([Kind("phone", CLIENT, 3), Kind("server", CLIENT, 1)])
    with pytest.raises(
        UnknownName, match=r"unknown kind of node 'fone'; did you mean 'phone'\? Known: phone, server\."
    ):
        fleet.node_ids("fone")


def test_a_fleet_has_a_kind_and_no_two_of_one_name() -> None:
    with pytest.raises(ConfigError, match="at least one kind"):
        Fleet([])
    with pytest.raises(ConfigError, match="two kinds of node are named 'a'"):
        Fleet([Kind("a", CLIENT, 1), Kind("b", CLIENT, 1), Kind("a", CLIENT, 1)])


@pytest.mark.parametrize("key", ["partition-id", "num-partitions"])
def test_a_kinds_config_may_not_have_the_engines_own_keys(key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Kind("a", CLIENT, 1, config={key: 7})


@pytest.mark.parametrize("client", [3, None, "app:client"], ids=repr)
def test_a_client_that_cannot_be_one_is_refused(client: object) -> None:
    with pytest.raises(ConfigError, match="client"):
        Kind("a", client, 1)
