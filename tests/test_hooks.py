"""What plugins do by the hooks other than flsim_backends, and what their faults cost: themselves."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers import APP, TABLE, backend_plugin, flsim, python, write, write_app, write_plugin
from typer.main import get_group

import flsim as package
from flsim.cli.app import app as commands
from flsim.cli.commands import with_app_options, with_commands
from flsim.errors import ConfigError, InputError
from flsim.find import find_project
from flsim.plugins import Plugins

HOOK = "from flsim.hooks import hookimpl\n"

LOADER = """
import dataclasses
from flsim.hooks import hookimpl

@hookimpl
def flsim_load_app(path):
    if not (path / "acme.toml").is_file():
        return None
    from flsim.project import load_project
    project = load_project(path / "app.py")
    return dataclasses.replace(project.with_nodes(4), name="acme's")
"""
"""A plugin whose apps are folders with an acme.toml."""

COMMANDS = """
from flsim.hooks import hookimpl

@hookimpl
def flsim_commands(app):
    @app.command()
    def greet(name: str = "you") -> None:
        "Say hello."
        print("hello", name)
"""

Install = Callable[..., Plugins]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make a plugin an installed distribution, and discover what there is then."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)
    modules = []

    def one(text: str, name: str = "acme", **more: Any) -> Plugins:
        modules.append(f"{name}_plugin")
        write_plugin(site, f"{name}_plugin", text, distribution=name, entry=name, **more)
        importlib.invalidate_caches()
        return Plugins()

    yield one
    for module in modules:
        sys.modules.pop(module, None)


def errors(plugins: Plugins) -> dict[str, str]:
    """The errors of plugins, by entry point."""
    return {p.name: p.error for p in plugins.found if p.error}


# ---- flsim_load_app


def test_an_app_that_a_plugin_recognises_is_run_as_the_plugin_loads_it(tmp_path: Path, install: Install) -> None:
    install(LOADER)
    app = write(tmp_path / "theirs", {"app.py": APP, "acme.toml": ""})
    result = package.run(app, backend="serial", seed=1, quiet=True)
    assert (result.app, result.nodes) == ("acme's", 4)


def test_an_app_that_no_plugin_recognises_is_the_engines_own(tmp_path: Path, install: Install) -> None:
    assert find_project(install(LOADER), write_app(tmp_path / "ours")).kinds[0].nodes == 3


def test_a_plugin_is_asked_before_the_pyproject_is_read(tmp_path: Path, install: Install) -> None:
    app = write_app(tmp_path / "both", f"{TABLE}\nnonsense = 1\n")
    (app / "acme.toml").touch()
    assert find_project(install(LOADER), app).name == "acme's"


def test_the_first_plugin_that_recognises_an_app_has_it(tmp_path: Path, install: Install) -> None:
    install(LOADER, "last")
    plugins = install(LOADER.replace("@hookimpl", "@hookimpl(tryfirst=True)").replace("acme's", "mine"), "first")
    assert find_project(plugins, write(tmp_path / "theirs", {"app.py": APP, "acme.toml": ""})).name == "mine"


def test_a_path_that_is_not_there_is_shown_to_no_plugin(tmp_path: Path, install: Install) -> None:
    plugins = install(f"{HOOK}@hookimpl\ndef flsim_load_app(path): 1 / 0")
    with pytest.raises(ConfigError, match="there is no app at"):
        find_project(plugins, tmp_path / "nowhere")


def test_a_plugin_that_fails_over_an_app_is_named(tmp_path: Path, install: Install) -> None:
    plugins = install(f"{HOOK}@hookimpl\ndef flsim_load_app(path): 1 / 0")
    with pytest.raises(InputError, match=r"plugin acme \(acme\) failed over the app at .*: ZeroDivisionError: "):
        find_project(plugins, write_app(tmp_path / "ours"))


def test_what_a_plugin_says_is_wrong_with_its_app_is_said(tmp_path: Path, install: Install) -> None:
    text = "from flsim.errors import ConfigError\n@hookimpl\ndef flsim_load_app(path): raise ConfigError('no rounds')"
    with pytest.raises(ConfigError, match=r"^no rounds$"):
        find_project(install(f"{HOOK}{text}"), write_app(tmp_path / "ours"))


def test_a_plugin_that_loads_no_project_is_named(tmp_path: Path, install: Install) -> None:
    plugins = install(f"{HOOK}@hookimpl\ndef flsim_load_app(path): return str(path)")
    with pytest.raises(InputError, match=r"plugin acme \(acme\) took the app at .* for a str, and no Project"):
        find_project(plugins, write_app(tmp_path / "ours"))


# ---- flsim_app_options

OPTIONS = """
import dataclasses
from flsim.hooks import AppOption, hookimpl

@hookimpl
def flsim_app_options():
    return [AppOption("acme_spice", ("--spice", "-x"), "NAME", "What is added. Repeatable.")]

@hookimpl
def flsim_load_app(path, given):
    if not (path / "acme.toml").is_file():
        return None
    from flsim.project import load_project
    project = load_project(path / "app.py")
    return dataclasses.replace(project, name="with " + " and ".join(given.get("acme_spice", ["nothing"])))
"""
"""A plugin whose apps take an option."""


def test_run_takes_the_options_of_a_plugin_and_hands_them_to_it(install: Install, tmp_path: Path) -> None:
    install(OPTIONS)
    app = write(tmp_path / "theirs", {"app.py": APP, "acme.toml": ""})

    def name(*args: str) -> str:
        done = flsim("run", app, "--dry-run", "--json", *args, path=[tmp_path / "site"])
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["app"])

    assert name() == "with nothing"
    assert name("--spice", "salt", "-x", "sugar") == "with salt and sugar"
    shown = flsim("run", "--help", path=[tmp_path / "site"]).stdout
    assert "-x, --spice NAME" in shown
    assert "What is added. Repeatable." in shown


def test_an_option_of_a_plugin_is_refused_for_an_app_that_is_not_the_plugins(install: Install, tmp_path: Path) -> None:
    install(OPTIONS)
    done = flsim("run", write_app(tmp_path / "ours"), "--spice", "salt", path=[tmp_path / "site"])
    assert done.returncode == 2
    assert "--spice is for apps of plugin acme (acme), and " in done.stderr


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise KeyError('oops')", "KeyError: 'oops'"),
        ("return [1]", "TypeError: flsim_app_options returns a list of AppOption, not [1]"),
        ("return [AppOption('a', ('--seed',), 'N', '')]", "the option '--seed' is taken"),
        ("return [AppOption('path', ('--b',), 'N', '')]", "the option 'path' is taken"),
    ],
)  # fmt: skip
def test_a_plugin_whose_options_fail_adds_none_and_says_why(
    install: Install, tmp_path: Path, body: str, error: str
) -> None:
    def options(plugins: Plugins) -> list[str | None]:
        return [p.name for p in get_group(with_app_options(commands, plugins)).commands["run"].params]

    before = options(Plugins())
    plugins = install(f"from flsim.hooks import AppOption, hookimpl\n@hookimpl\ndef flsim_app_options():\n    {body}\n")
    assert options(plugins) == before
    assert errors(plugins) == {"acme": error}
    assert find_project(plugins, write_app(tmp_path / "ours")).name == "ours"


# ---- a dry run that does more


def test_a_dry_run_does_what_a_plugins_app_has_for_it(install: Install, tmp_path: Path) -> None:
    install(LOADER.replace('name="acme\'s"', "rehearse=lambda plan: [f'tried with seed {plan.seed}']"))
    app = write(tmp_path / "theirs", {"app.py": APP, "acme.toml": ""})
    run = ("run", app, "--dry-run", "--seed", "5")
    done = flsim(*run, path=[tmp_path / "site"])
    assert done.stdout.splitlines()[-1] == "  tried with seed 5"
    assert json.loads(flsim(*run, "--json", path=[tmp_path / "site"]).stdout)["rehearsal"] == ["tried with seed 5"]


# ---- another library's apps


def test_an_app_of_another_library_is_called_by_what_its_adapter_makes_of_it(install: Install, tmp_path: Path) -> None:
    install(
        "import dataclasses\nfrom flsim.hooks import hookimpl\n"
        "def server(theirs): return lambda grid, context: context.state.update(theirs(grid.link.fleet.nodes))\n"
        "@hookimpl\n"
        "def flsim_load_app(path):\n"
        "    from flsim.code import Code, Reference\n"
        "    from flsim.project import load_project\n"
        "    project = load_project(path)\n"
        "    reference = Reference(Code.of_folder(path), 'app', 'theirs', adapter=server)\n"
        "    return dataclasses.replace(project, server=reference)\n"
    )
    theirs = "\nfrom flsim import ConfigRecord\ndef theirs(nodes): return {'theirs': ConfigRecord({'nodes': nodes})}\n"
    result = package.run(write_app(tmp_path / "app", app=APP + theirs), backend="serial", quiet=True)
    assert result.state["theirs"]["nodes"] == 3


# ---- flsim_commands


def test_a_plugin_adds_a_command(install: Install, tmp_path: Path) -> None:
    install(COMMANDS)
    shown = flsim("--help", path=[tmp_path / "site"])
    assert "greet     Say hello." in shown.stdout
    done = flsim("greet", "--name", "world", path=[tmp_path / "site"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello world\n", "")


def test_a_plugin_adds_a_group_of_commands(install: Install, tmp_path: Path) -> None:
    install(
        "import typer\nfrom flsim.hooks import hookimpl\ngroup = typer.Typer()\n"
        "@group.command()\ndef a(): print('a')\n@group.command()\ndef b(): print('b')\n"
        "@hookimpl\ndef flsim_commands(app): app.add_typer(group, name='letters')\n"
    )
    assert flsim("letters", "b", path=[tmp_path / "site"]).stdout == "b\n"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise KeyError('oops')", "KeyError: 'oops'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("app.command()(typed)", "NameError: name 'Nowhere' is not defined"),
        ("app.command(name='run')(greet)", "ValueError: the command 'run' is that of flsim itself"),
        ("app.callback()(greet)", "TypeError: flsim_commands adds commands, and no callback"),
    ],
    ids=["raises", "exits", "no type", "claims ours", "callback"],
)
def test_a_plugin_whose_commands_have_a_fault_costs_help_nothing(
    install: Install, tmp_path: Path, body: str, error: str
) -> None:
    text = f"""
from flsim.hooks import hookimpl

def greet(): ...
def typed(x: "Nowhere"): ...

@hookimpl
def flsim_commands(app):
    app.command(name="before")(greet)
    {body}
"""
    install(text)
    shown = flsim("--help", path=[tmp_path / "site"])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "before" not in shown.stdout
    (row,) = [
        r for r in json.loads(flsim("plugins", "--json", path=[tmp_path / "site"]).stdout) if r["plugin"] == "acme"
    ]
    assert row["hooks"] == ["flsim_commands"]
    assert row["error"] == error


def test_a_command_that_two_plugins_claim_stays_with_the_first(install: Install) -> None:
    install(COMMANDS, "one")
    plugins = install(COMMANDS, "two")
    with_commands(commands, plugins)
    ((loser, error),) = errors(plugins).items()
    winner = {"one": "two", "two": "one"}[loser]
    assert error == f"ValueError: the command 'greet' is that of {winner} ({winner})"


def test_commands_of_plugins_leave_the_engines_own_app_as_it_is(install: Install) -> None:
    def count(app: object) -> int:
        assert isinstance(app, typer.Typer)
        return len(app.registered_commands)

    own, others = count(commands), count(with_commands(commands, Plugins()))
    assert (count(with_commands(commands, install(COMMANDS))), count(commands)) == (others + 1, own)


def test_a_plugin_whose_commands_fail_still_offers_its_backend(install: Install) -> None:
    text = backend_plugin("acme", "x:X") + "\n@hookimpl\ndef flsim_commands(app): 1 / 0\n"
    plugins = install(text)
    with_commands(commands, plugins)
    assert errors(plugins) == {"acme": "ZeroDivisionError: division by zero"}
    assert plugins.backend("acme").spec.name == "acme"


def test_help_survives_a_plugin_that_exits_on_import(install: Install, tmp_path: Path) -> None:
    install("import sys; sys.exit(3)")
    assert flsim("--help", path=[tmp_path / "site"]).returncode == 0


def test_help_imports_nothing_heavy() -> None:
    code = """
    import contextlib, sys
    from flsim.cli import main
    sys.argv = ["flsim", "--help"]
    with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):
        main()
    print(*sys.modules)
    """
    heavy = {"numpy", "loky", "distributed", "ray", "cloudpickle", "threadpoolctl", "asyncio", "rich", "flsim.engine"}
    assert not heavy & set(python(code).split())


# ---- flsim_observer

OBSERVER = """
import dataclasses, json
from pathlib import Path
from flsim.hooks import hookimpl

class Observer:
    def __init__(self, run):
        self.seen = [run.app, run.backend, run.nodes, run.seed, dict(run.config)]
        self.file = Path(run.config["file"])
    def on(self, events):
        self.seen += [type(e).__name__ for e in events]
    def close(self):
        self.file.write_text(json.dumps(self.seen))

@hookimpl
def flsim_observer(run):
    return Observer(run) if "file" in run.config else None
"""


def run(tmp_path: Path, **config: str) -> package.RunResult:
    """A run of ten messages on serial."""
    app = write(tmp_path / "app", {"app.py": APP}) / "app.py"
    return package.run(app, backend="serial", seed=1, config=config, quiet=True)


def test_an_observer_is_told_of_its_run_and_of_what_happens_in_it(tmp_path: Path, install: Install) -> None:
    install(OBSERVER)
    file = tmp_path / "seen.json"
    run(tmp_path, file=str(file))
    app, backend, nodes, seed, config, *events = json.loads(file.read_text())
    assert (app, backend, nodes, seed, config) == ("app", "serial", 10, 1, {"file": str(file)})
    assert (events[0], events[-1]) == ("RunStarted", "RunFinished")
    assert {"Pushed", "Returned", "Reported"} <= set(events)


def test_a_plugin_may_take_no_part_in_a_run(tmp_path: Path, install: Install) -> None:
    install(OBSERVER)
    assert run(tmp_path).answered == 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@hookimpl\ndef flsim_observer(run): 1 / 0", "ZeroDivisionError: division by zero"),
        ("@hookimpl\ndef flsim_observer(run): return 3", "returns an observer, with on and close, not 3"),
    ],
    ids=["raises", "no observer"],
)
def test_a_plugin_that_cannot_make_its_observer_is_reported_once_and_the_run_goes_on(
    tmp_path: Path, install: Install, caplog: pytest.LogCaptureFixture, text: str, said: str
) -> None:
    install(HOOK + text)
    assert run(tmp_path).answered == 10
    (record,) = caplog.records
    assert record.getMessage() == "plugin acme (acme) raised; it does not observe this run"
    assert said in caplog.text


@pytest.mark.parametrize("method", ["on", "close"])
def test_an_observer_that_raises_is_reported_once_and_told_no_more(
    tmp_path: Path, install: Install, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    other = "close" if method == "on" else "on"
    text = f"""
class Bad:
    def {method}(self, *_): raise KeyError("oops")
    def {other}(self, *_): ...

@hookimpl
def flsim_observer(run): return Bad()
"""
    install(HOOK + text)
    install(OBSERVER, "good")
    assert run(tmp_path, file=str(tmp_path / "seen.json")).answered == 10
    (record,) = caplog.records
    assert record.getMessage() == "observer Bad raised; it is told no more"
    assert json.loads((tmp_path / "seen.json").read_text())[-1] == "RunFinished"


# ---- flsim plugins


def test_plugins_are_listed_with_where_they_are_from_their_hooks_and_their_state(
    install: Install, tmp_path: Path
) -> None:
    install(LOADER + COMMANDS, version="2.5")
    install("import nothing_of_this_name", "broken")
    install(f"{HOOK}@hookimpl\ndef flsim_observers(run): ...", "misspelt")
    shown = flsim("plugins", path=[tmp_path / "site"])
    assert shown.returncode == 0, shown.stderr
    table = shown.stdout.partition("\n\n")[0]  # what follows are options
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in table.splitlines()[1:]}
    assert rows["serial"].endswith("flsim_backends ok")
    assert rows["acme"] == "acme 2.5 flsim_commands, flsim_load_app ok"
    assert rows["broken"] == "broken 1.0 ModuleNotFoundError: No module named 'nothing_of_this_name'"
    assert rows["misspelt"].startswith("misspelt 1.0 UnknownName: unknown hook 'flsim_observers'; did you mean")


def test_plugins_that_claim_one_backend_are_both_listed_with_the_clash(install: Install, tmp_path: Path) -> None:
    install(backend_plugin("fast", "x:X"), "one", version="1.2")
    install(backend_plugin("fast", "y:Y"), "two", version="3.4")
    rows = {r["plugin"]: r["error"] for r in json.loads(flsim("plugins", "--json", path=[tmp_path / "site"]).stdout)}
    assert rows["one"] == rows["two"] == "backend 'fast' is claimed by one 1.2 and two 3.4; uninstall one of them"
    assert rows["serial"] == ""


def test_two_entry_points_of_one_module_are_one_plugin_and_an_error(install: Install, tmp_path: Path) -> None:
    write(tmp_path / "site", {"again-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: again\nVersion: 1.0\n"})
    write(tmp_path / "site", {"again-1.0.dist-info/entry_points.txt": "[flsim]\nagain = acme_plugin\n"})
    plugins = install(backend_plugin("acme", "x:X"))
    assert errors(plugins) == {"again": "ValueError: it names the module of acme (acme) again"}
    assert plugins.backend("acme").plugin.name == "acme"


# ---- flsim_options

ASKED = """
from dataclasses import dataclass, field
from flsim.hooks import hookimpl

@dataclass(frozen=True)
class Options:
    file: str = field(default="", metadata={"help": "where it writes"})
    every: int = field(default=1, metadata={"help": "rounds"})

    def __post_init__(self):
        if self.every < 1:
            raise ValueError("every is one or more")

@hookimpl
def flsim_options():
    return Options

@hookimpl
def flsim_observer(run):
    print("asked with", run.plugins.get("acme"))
"""
"""A plugin that says with what it is asked for."""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "None"),
        (["-p", "acme"], "Options(file='', every=1)"),
        (["-p", "acme.file=x", "--plugin", "acme.every=3"], "Options(file='x', every=3)"),
        (["-p", "acme", "-p", "acme.every=2"], "Options(file='', every=2)"),
        (["-p", "acme=false"], "None"),
    ],
)
def test_a_plugin_is_told_whether_it_is_asked_for_and_with_what(
    tmp_path: Path, install: Install, args: list[str], said: str
) -> None:
    install(ASKED)
    app = write_app(tmp_path / "app")
    shown = flsim("run", app, "-b", "serial", *args, path=[tmp_path / "site"])
    assert f"asked with {said}\n" in shown.stdout, shown.stderr


@pytest.mark.parametrize(
    ("table", "args", "asked"),
    [
        ("plugins.acme = true", {}, "Options(file='', every=1)"),
        ("plugins.acme = false", {}, "None"),
        ("plugins.acme.every = 4", {}, "Options(file='', every=4)"),
        ("plugins.acme.every = 4", {"acme": {"file": "x"}}, "Options(file='x', every=4)"),
        ("plugins.acme.every = 4", {"acme": False}, "None"),
        ("", {"acme": True}, "Options(file='', every=1)"),
    ],
)
def test_what_is_asked_of_a_plugin_in_python_goes_before_what_the_app_says(
    tmp_path: Path, install: Install, table: str, args: dict[str, Any], asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install(ASKED)
    app = write_app(tmp_path / "app", f"{TABLE}\n{table}\n")
    package.run(app, backend="serial", quiet=True, plugins=args)
    assert f"asked with {asked}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-p", "acmee"], "unknown plugin that takes options 'acmee'; did you mean 'acme'?"),
        (["-p", "acmee=false"], "unknown plugin that takes options 'acmee'"),
        (["-p", "progress"], "unknown plugin that takes options 'progress'"),
        (["-p", "acme.fil=x"], "unknown option of plugin acme 'fil'; did you mean 'file'?"),
        (["-p", "acme.every=x"], "option every of plugin acme is of type int, not 'x'"),
        (["-p", "acme.every=0"], "options of plugin acme: every is one or more"),
        (["-p", "acme=3"], "plugin acme is true, false, or a table of its options, not 3"),
        (["-p", "acme=false", "-p", "acme.every=2"], "--plugin acme has options and is switched off"),
        (["-p", "acme", "-p", "acme"], "--plugin acme is given twice"),
    ],
)
def test_what_cannot_be_asked_of_a_plugin_is_refused_before_the_app_is_loaded(
    tmp_path: Path, install: Install, args: list[str], said: str
) -> None:
    install(ASKED)
    shown = flsim("run", tmp_path / "nowhere", *args, path=[tmp_path / "site"])
    assert shown.returncode == 2
    assert said in shown.stderr


def test_a_plugin_that_an_app_asks_for_and_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", f"{TABLE}\nplugins.acme = true\n")
    with pytest.raises(InputError, match=r"unknown plugin that takes options 'acme'.* It may be not installed"):
        package.run(app, backend="serial", quiet=True)


def test_a_plugin_that_two_distributions_have_is_refused_with_both(tmp_path: Path, install: Install) -> None:
    install(ASKED)
    write_plugin(tmp_path / "site", "other", ASKED, distribution="other", entry="acme")
    importlib.invalidate_caches()
    with pytest.raises(InputError, match="plugin 'acme' is claimed by acme and other; uninstall one of them"):
        package.run(write_app(tmp_path / "app"), backend="serial", quiet=True, plugins={"acme": True})


@pytest.mark.parametrize("what", ["1 / 0", "return dict"])
def test_a_plugin_whose_options_have_a_fault_is_a_row_that_says_so(install: Install, tmp_path: Path, what: str) -> None:
    install(f"{HOOK}@hookimpl\ndef flsim_options(): {what}")
    listed = flsim("plugins", "--json", path=[tmp_path / "site"])
    (row,) = (r for r in json.loads(listed.stdout) if r["plugin"] == "acme")
    assert row["error"] in (
        "ZeroDivisionError: division by zero",
        "ValueError: the options of the plugin are a dataclass, not <class 'dict'>",
    )
    refused = flsim("run", tmp_path, "-p", "acme", path=[tmp_path / "site"])
    assert f"These plugins cannot be used: acme ({row['error']})" in refused.stderr


def test_options_of_plugins_are_listed_and_shown_by_a_dry_run(install: Install, tmp_path: Path) -> None:
    install(ASKED)
    listed = flsim("plugins", path=[tmp_path / "site"])
    assert "options of acme (--plugin acme.KEY=VALUE)\n  file   str  where it writes\n" in listed.stdout
    dry = flsim("run", write_app(tmp_path / "app"), "--dry-run", "-p", "acme.every=2", path=[tmp_path / "site"])
    assert "  with plugin acme: file=, every=2\n" in dry.stdout
