"""ClientApp, ServerApp and Context, called as the engine calls them; and the public names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import pytest
from helpers import instruction, python

import flsim
from flsim import ClientApp, Context, Grid, Message, RecordDict, ServerApp
from flsim.errors import UnknownName

Handler = Callable[[Message, Context], Message]

GRID = cast("Grid", object())


def context(seed: int = 1, node: int = 2, k: int = 0) -> Context:
    return Context(5, node, {"partition-id": 0}, RecordDict(), MappingProxyType({}), (seed, (node, k)))


def answering(name: str, calls: list[str]) -> Handler:
    def handler(msg: Message, context: Context) -> Message:
        calls.append(name)
        return Message(RecordDict(), reply_to=msg)

    return handler


def noting(name: str, calls: list[str]) -> Any:
    def mod(msg: Message, context: Context, call_next: Handler) -> Message:
        calls.append(f"{name} in")
        reply = call_next(msg, context)
        calls.append(f"{name} out")
        return reply

    return mod


def around(calls: list[str]) -> Callable[[Context], Iterator[None]]:
    def lifespan(context: Context) -> Iterator[None]:
        calls.append(f"enter {context.node_id}")
        try:
            yield
        finally:
            calls.append("leave")

    return lifespan


# ---- ClientApp


@pytest.mark.parametrize("category", ["train", "evaluate", "query"])
def test_a_message_goes_to_the_handler_of_its_type(category: str) -> None:
    calls: list[str] = []
    app = ClientApp()
    for other in ("train", "evaluate", "query"):
        getattr(app, other)()(answering(other, calls))
        getattr(app, other)("look")(answering(f"{other}.look", calls))
    message = instruction(type_=category)
    assert app(message, context()).metadata.reply_to_message_id == message.metadata.message_id
    app(instruction(type_=f"{category}.look"), context())
    assert calls == [category, f"{category}.look"]


def test_registering_gives_the_function_back() -> None:
    handler = answering("x", [])
    assert ClientApp(mods=[noting("a", [])]).train()(handler) is handler


def test_a_type_without_a_handler_is_named_with_the_nearest_and_the_known() -> None:
    app = ClientApp()
    app.train("warmup")(answering("x", []))
    app.evaluate()(answering("x", []))
    with pytest.raises(UnknownName, match=r"message type 'train\.warm'; did you mean 'train\.warmup'\?") as raised:
        app(instruction(type_="train.warm"), context())
    assert "Known: evaluate, train.warmup." in str(raised.value)
    assert "@app.train()" in str(raised.value)


def test_an_app_without_handlers_says_so() -> None:
    with pytest.raises(UnknownName, match=r"unknown message type 'train'\. No message type is known\."):
        ClientApp()(instruction(), context())


@pytest.mark.parametrize("category", ["train", "evaluate", "query"])
def test_a_decorator_without_parentheses_is_refused_with_how_to_write_it(category: str) -> None:
    with pytest.raises(TypeError, match=rf"write @app\.{category}\(\) with its parentheses"):
        getattr(ClientApp(), category)(answering("x", []))


@pytest.mark.parametrize("action", ["two words", "a.b", "1st", ""])
def test_an_action_that_is_no_identifier_is_refused_by_name(action: str) -> None:
    with pytest.raises(ValueError, match=f"an action is a Python identifier, not '{action}'"):
        ClientApp().train(action)


def test_a_second_handler_of_one_type_is_refused_with_the_name_of_the_first() -> None:
    app = ClientApp()
    app.train("warmup")(answering("x", []))
    app.train()(answering("x", []))
    with pytest.raises(ValueError, match=r"handles 'train\.warmup' already, by answering\.<locals>\.handler"):
        app.train("warmup")(answering("y", []))


def test_a_second_handler_is_refused_with_the_name_of_the_first_under_mods_too() -> None:
    app = ClientApp(mods=[noting("a", [])])
    app.train()(answering("x", []))
    with pytest.raises(ValueError, match=r"by answering\.<locals>\.handler"):
        app.train()(answering("y", []))


def test_mods_are_called_from_the_outermost_in_the_apps_before_the_handlers() -> None:
    calls: list[str] = []
    app = ClientApp(mods=[noting("a", calls), noting("b", calls)])
    app.train(mods=[noting("c", calls)])(answering("train", calls))
    app.evaluate()(answering("evaluate", calls))
    app(instruction(), context())
    assert calls == ["a in", "b in", "c in", "train", "c out", "b out", "a out"]
    calls.clear()
    app(instruction(type_="evaluate"), context())
    assert calls == ["a in", "b in", "evaluate", "b out", "a out"]


def test_a_mod_may_answer_in_the_place_of_the_handler() -> None:
    calls: list[str] = []

    def refuse(msg: Message, context: Context, call_next: Handler) -> Message:
        return Message(flsim.Error(42, "no"), reply_to=msg)

    app = ClientApp(mods=[refuse])
    app.train()(answering("train", calls))
    assert app(instruction(), context()).error.code == 42
    assert calls == []


def test_no_mods_may_be_written_as_none() -> None:
    app = ClientApp(mods=None)
    app.train(mods=None)(answering("x", []))
    assert app(instruction(), context()).has_content()


def test_a_lifespan_is_entered_for_each_message_and_left_afterwards() -> None:
    calls: list[str] = []
    app = ClientApp(mods=[noting("mod", calls)])
    app.lifespan()(around(calls))
    app.train()(answering("train", calls))
    for node in (2, 3):
        app(instruction(node), context(node=node))
    once = ["mod in", "train", "mod out", "leave"]
    assert calls == ["enter 2", *once, "enter 3", *once]


def test_a_lifespan_is_left_when_the_handler_raises() -> None:
    calls: list[str] = []
    app = ClientApp()
    app.lifespan()(around(calls))

    @app.train()
    def train(msg: Message, context: Context) -> Message:
        raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        app(instruction(), context())
    assert calls == ["enter 2", "leave"]


@pytest.mark.parametrize("make", [ClientApp, ServerApp])
def test_a_second_lifespan_is_refused(make: type[ClientApp | ServerApp]) -> None:
    app = make()
    app.lifespan()(around([]))
    with pytest.raises(ValueError, match="has a lifespan already"):
        app.lifespan()(around([]))


# ---- ServerApp


def test_the_main_function_gets_grid_and_context() -> None:
    calls: list[tuple[Grid, Context]] = []
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        calls.append((grid, context))

    assert app.main()(main) is main
    given = context(node=1)
    app(GRID, given)
    assert calls == [(GRID, given)]


def test_a_serverapp_without_main_says_how_to_register_one() -> None:
    with pytest.raises(ValueError, match=r"has no main; register one with @app\.main\(\)"):
        ServerApp()(GRID, context())


def test_a_second_main_is_refused_with_the_name_of_the_first() -> None:
    app = ServerApp()

    def mine(grid: Grid, context: Context) -> None: ...

    app.main()(mine)
    with pytest.raises(ValueError, match=r"has a main already: .*mine"):
        app.main()(lambda grid, context: None)


def test_a_lifespan_surrounds_main_also_when_it_raises() -> None:
    calls: list[str] = []
    app = ServerApp()
    app.lifespan()(around(calls))

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        calls.append("main")
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        app(GRID, context(node=1))
    assert calls == ["enter 1", "main", "leave"]


@pytest.mark.parametrize(
    "decorator", [ServerApp().main, ServerApp().lifespan, ClientApp().lifespan], ids=["main", "server", "client"]
)
def test_main_and_lifespan_without_parentheses_are_refused_with_how_to_write_them(decorator: Any) -> None:
    with pytest.raises(TypeError, match="with its parentheses"):
        decorator(lambda *args: None)


def test_a_lifespan_that_does_not_yield_is_refused() -> None:
    with pytest.raises(TypeError, match="yield"):
        ClientApp().lifespan()(lambda context: None)  # type: ignore[arg-type,return-value]  # so it is


# ---- Context


def test_rng_is_that_of_numpys_seed_sequence_for_node_and_count() -> None:
    expected = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(3, 2))).random(4)
    assert context(seed=7, node=3, k=2).rng.random(4).tolist() == expected.tolist()


def test_rng_is_one_generator_per_message_and_another_for_each() -> None:
    one = context(seed=7)
    assert one.rng is one.rng
    drawn = {c.rng.random() for c in (context(7), context(8), context(7, node=3), context(7, k=1))}
    assert len(drawn) == 4
    assert context(7).rng.random() == context(7).rng.random()


def test_state_is_what_the_app_makes_of_it() -> None:
    given = context()
    given.state = RecordDict({"m": flsim.MetricRecord({"n": 1})})
    assert given.state["m"]["n"] == 1


def test_a_context_for_a_test_of_an_app_is_made_as_flowers_is() -> None:
    assert list(inspect.signature(Context).parameters)[:5] == [
        "run_id",
        "node_id",
        "node_config",
        "state",
        "run_config",
    ]
    made = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    assert made.rng.random() < 1


# ---- the public names


@pytest.mark.parametrize("name", flsim.__all__)
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    value = getattr(flsim, name)
    assert value.__name__ == name
    assert value.__module__.startswith("flsim.")
    assert value.__doc__


def test_the_public_names_are_listed_once_and_shown_by_dir() -> None:
    assert len(set(flsim.__all__)) == len(flsim.__all__)
    assert set(flsim.__all__) <= set(dir(flsim))


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'flsim' has no attribute 'Massage'"):
        _ = flsim.Massage


@pytest.mark.parametrize(
    "use",
    ["import flsim", "import flsim; flsim.__version__; dir(flsim)", "from flsim import ClientApp, Message, ServerApp"],
)
def test_importing_flsim_and_the_apps_imports_nothing_heavy(use: str) -> None:
    heavy = {"numpy", "typer", "rich", "pluggy", "asyncio", "cloudpickle", "loky", "threadpoolctl", "flsim.engine"}
    modules = python(f"import sys\n{use}\nprint(*sys.modules)").split()
    assert "flsim" in modules
    assert not heavy & set(modules)


def test_a_star_import_gives_all_public_names() -> None:
    names = python("from flsim import *\nprint(*sorted(n for n in dir() if not n.startswith('_')))").split()
    assert names == sorted(flsim.__all__)
