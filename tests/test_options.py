"""Options and KEY=VALUE: how values are read, which are refused, and in which words."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import chain
from typing import Any, Optional

import pytest

from flsim import errors
from flsim.backend import BackendSpec, HostOptions
from flsim.errors import (
    AppLoadError,
    BackendBroken,
    Cause,
    ConfigError,
    FlsimError,
    InputError,
    UnknownName,
    WorkerLost,
)
from flsim.options import make_options, parse_assignments, type_name


@dataclass(frozen=True, slots=True)
class Options:
    workers: int = 1
    share: float = 0.5
    address: str | None = None
    limit: Optional[int | float] = None  # noqa: UP045  # a stranger may write it so
    local: bool = False
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is one or more, not {self.workers}")
        if self.share > 1:
            raise ConfigError(f"share is at most 1, not {self.share}")


def spec(options: type[Any] = Options, **more: Any) -> BackendSpec:
    return BackendSpec("acme", "a stranger's", "acme:Acme", options, frozenset({"cpus"}), **more)


# ---- KEY=VALUE


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("8GiB", "8GiB"),
        ("words with spaces", "words with spaces"),
        ('"3"', "3"),
        ("'a'", "a"),
        ("127.0.0.1:6379", "127.0.0.1:6379"),
        ("", ""),
        ("a=b=c", "a=b=c"),
        ("007", "007"),
        ("[1, 2]", [1, 2]),
        ("1,2", "1,2"),
        ("2030-01-02", date(2030, 1, 2)),
        (" 3 ", 3),
    ],
)
def test_a_value_is_toml_and_a_string_where_it_is_not(text: str, value: object) -> None:
    (parsed,) = parse_assignments("--set", [f"key={text}"]).values()
    assert parsed == value
    assert type(parsed) is type(value)


def test_keys_keep_their_dots_and_their_order() -> None:
    assert list(parse_assignments("--set", ["b.c=1", " a =2"])) == ["b.c", "a"]


@pytest.mark.parametrize("text", ["key", "", "=3", " =3"])
def test_what_is_no_assignment_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"-o takes KEY=VALUE, not {text!r}")):
        parse_assignments("-o", [text])


def test_a_key_given_twice_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="-o cpus is given twice"):
        parse_assignments("-o", ["cpus=1", "cpus=2"])


def test_a_value_of_several_lines_is_not_cut() -> None:
    assert parse_assignments("--set", ["key=1\nother = 2"])["key"] == "1\nother = 2"


# ---- options of a backend


def test_options_that_are_not_given_have_their_defaults() -> None:
    assert make_options(spec(), {}) == Options()


def test_options_are_those_given() -> None:
    given = {"workers": 3, "address": "a:1", "limit": 2, "local": True, "names": ["x"]}
    assert make_options(spec(), given) == Options(workers=3, address="a:1", limit=2, local=True, names=["x"])


def test_a_whole_number_is_taken_for_a_float() -> None:
    options = make_options(spec(HostOptions), {"cpus": 4})
    assert type(options.cpus) is float


def test_the_memory_of_a_host_may_be_given_in_bytes() -> None:
    assert make_options(spec(HostOptions), {"memory": 2**30}).resources().memory == 2**30


def test_an_unknown_option_is_named_with_the_nearest_and_the_known() -> None:
    with pytest.raises(UnknownName) as raised:
        make_options(spec(), {"worker": 3})
    assert str(raised.value) == (
        "unknown option of backend acme 'worker'; did you mean 'workers'? "
        "Known: address, limit, local, names, share, workers."
    )


@pytest.mark.parametrize(
    ("key", "value", "type_"),
    [
        ("workers", "three", "int"),
        ("workers", 1.0, "int"),
        ("workers", True, "int"),
        ("share", "half", "float"),
        ("share", True, "float"),
        ("address", 3, "str"),
        ("limit", "x", "int or float"),
        ("local", 1, "bool"),
        ("local", "yes", "bool"),
        ("names", "x", "list"),
    ],
)
def test_a_value_of_another_type_is_refused_with_option_backend_type_and_value(
    key: str, value: object, type_: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"option {key} of backend acme is of type {type_}, not {value!r}")):
        make_options(spec(), {key: value})


@pytest.mark.parametrize("given", [{"workers": 0}, {"share": 2.0}], ids=["ValueError", "ConfigError"])
def test_a_value_that_the_backend_refuses_is_bad_input(given: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"workers is one or more, not 0|share is at most 1, not 2\.0"):
        make_options(spec(), given)


def test_types_are_written_for_users() -> None:
    assert [type_name(t) for t in (int, float | None, str | int, list[str])] == ["int", "float", "str or int", "list"]


# ---- the spec


def test_a_backend_that_honours_what_there_is_not_is_refused_with_what_there_is() -> None:
    with pytest.raises(
        ValueError, match="'acme' honours magic; known: abort, cpus, custom, gpus, hosts, isolation, memory"
    ):
        BackendSpec("acme", "", "acme:Acme", Options, frozenset({"cpus", "magic"}))


@pytest.mark.parametrize("options", [dict, Options()], ids=["no dataclass", "an instance"])
def test_options_that_are_no_dataclass_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="dataclass"):
        spec(options)


def test_an_option_without_a_default_is_refused() -> None:
    @dataclass(frozen=True)
    class Demanding:
        address: str

    with pytest.raises(ValueError, match=r"address.*default"):
        spec(Demanding)


# ---- errors


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("sreial", ["loky", "serial"], "unknown backend 'sreial'; did you mean 'serial'? Known: loky, serial."),
        ("xyz", ["b", "a"], "unknown backend 'xyz'. Known: a, b."),
        ("xyz", [], "unknown backend 'xyz'. No backend is known."),
    ],
)
def test_an_unknown_name_says_the_nearest_and_the_known(name: str, known: list[str], text: str) -> None:
    error = UnknownName("backend", name, known)
    assert str(error) == text
    assert isinstance(error, InputError)
    assert isinstance(error, LookupError)


def test_an_unknown_name_may_end_with_a_hint() -> None:
    assert str(UnknownName("key", "x", ["y"], "Look there.")).endswith("Known: y. Look there.")


def pickled(error: FlsimError) -> FlsimError:
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, FlsimError)
    return again


@pytest.mark.parametrize(
    "error",
    [ConfigError("x"), AppLoadError("x"), BackendBroken("x"), WorkerLost(Cause.SIGNAL, "SIGKILL")],
    ids=lambda e: type(e).__name__,
)
def test_an_error_survives_pickling_as_between_the_processes_of_a_sweep(error: FlsimError) -> None:
    assert (type(pickled(error)), str(pickled(error))) == (type(error), str(error))


def test_an_unknown_name_survives_pickling() -> None:
    error = UnknownName("backend", "x", ["y"])
    assert str(pickled(error)) == str(error)


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    def tree(error: type[FlsimError], depth: int = 0) -> list[tuple[int, str]]:
        below = [tree(sub, depth + 1) for sub in error.__subclasses__() if sub.__module__ == errors.__name__]
        return [(depth, error.__name__), *chain.from_iterable(below)]

    drawn = re.findall(r"^ {4}([│ ]*(?:[├└]── )?)(\w+)", errors.__doc__ or "", re.MULTILINE)
    assert [(len(indent) // 4, name) for indent, name in drawn] == tree(FlsimError)
