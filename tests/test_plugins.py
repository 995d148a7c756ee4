"""Plugins are found by their metadata, and whatever is wrong with one harms nobody else."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import APP, backend_plugin, flsim, python, write, write_plugin
from installed import skip_without

from flsim.errors import BackendUnavailable, InputError, UnknownName
from flsim.plugins import DEFAULT_BACKENDS, Plugins, refuse_namesake

ACME = "acme_plugin"

BACKEND = """
from concurrent.futures import Future

from flsim.backend import Backend
from flsim.resources import Place, Resources
from flsim.worker import run_lease

class Acme(Backend):
    def __init__(self, options): ...
    def start(self, run): ...
    def capacity(self): return [Place("acme", Resources(cpus=2), 2)]
    def submit(self, frames, need, place, devices=()):
        future = Future()
        future.set_result(run_lease(frames))
        return future
    def stop(self): ...
"""

NAMESAKE = {"flsim-0.3.dist-info/METADATA": "Metadata-Version: 2.1\nName: flsim\nVersion: 0.3\n"}
"""What the installation of PyPI's flsim leaves."""

HOOK = "from flsim.hooks import hookimpl\n@hookimpl\n"
"""What stands before a function that implements a hook."""

Install = Callable[..., Plugins]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Make a plugin an installed distribution, and discover what there is then."""
    monkeypatch.syspath_prepend(tmp_path)
    modules = []

    def one(module: str, text: str, distribution: str = "acme", **more: Any) -> Plugins:
        modules.append(module)
        write_plugin(tmp_path, module, text, distribution=distribution, **more)
        importlib.invalidate_caches()
        return Plugins()

    yield one
    for module in modules:
        sys.modules.pop(module, None)


def fault(plugins: Plugins, name: str) -> str:
    """Why the plugin of this name cannot be used; ours can."""
    faults = {p.name: p.error for p in plugins.found}
    assert faults["serial"] == ""
    assert plugins.backend("serial").spec.name == "serial"
    return faults[name]


# ---- what is found


def test_our_own_backends_are_found_by_the_door_of_the_guests() -> None:
    plugins = Plugins()
    serial = plugins.backend("serial")
    assert (serial.plugin.name, serial.plugin.distribution, serial.plugin.error) == ("serial", "flsim-engine", "")
    assert "progress" in {p.name for p in plugins.found}


def test_a_strangers_backend_is_found_with_its_distribution(install: Install) -> None:
    plugins = install(ACME, backend_plugin("acme", "acme_backend:Acme"), "acme-backend", version="2.5", entry="acme")
    offer = plugins.backend("acme")
    assert (offer.plugin.name, offer.plugin.distribution, offer.plugin.version) == ("acme", "acme-backend", "2.5")
    assert "acme" in [b.spec.name for b in plugins.backends()]


def test_backends_are_listed_by_name(install: Install) -> None:
    install("zzz_plugin", backend_plugin("aaa", "x:X"), "zzz")
    names = [b.spec.name for b in install(ACME, backend_plugin("zzz", "x:X")).backends()]
    assert names == sorted(names)
    assert {"aaa", "serial", "zzz"} <= set(names)


def test_a_plugin_may_offer_nothing(install: Install) -> None:
    assert fault(install(ACME, ""), ACME) == ""


def test_the_engine_runs_on_a_strangers_backend(tmp_path: Path) -> None:
    write_plugin(tmp_path, ACME, backend_plugin("acme", "acme_backend:Acme"), distribution="acme")
    write(tmp_path, {"acme_backend.py": BACKEND, "app.py": APP})
    done = flsim("run", tmp_path / "app.py", "--backend", "acme", "--json", path=[tmp_path])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["backend"], result["counts"]["train"]["answered"]) == ("acme", 10)


def test_the_default_is_the_first_of_the_defaults_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("loky")
    assert DEFAULT_BACKENDS == ("loky", "serial")
    plugins = Plugins()
    assert plugins.default_backend().spec.name == "loky"
    monkeypatch.setattr("flsim.plugins._installed", lambda distribution: distribution != "loky")
    assert plugins.default_backend().spec.name == "serial"


def test_a_strangers_backend_is_never_the_default(install: Install) -> None:
    assert install(ACME, backend_plugin("acme", "x:X")).default_backend().spec.name in DEFAULT_BACKENDS


# ---- what is asked for and is not there


def test_an_unknown_backend_is_named_with_the_nearest_and_the_known() -> None:
    with pytest.raises(
        UnknownName, match=r"unknown backend 'seriel'; did you mean 'serial'\? Known: .*serial"
    ) as raised:
        Plugins().backend("seriel")
    assert "cannot be used" not in str(raised.value)


def test_an_unknown_backend_is_told_of_the_plugins_that_are_broken(install: Install) -> None:
    plugins = install(ACME, "import nothing_of_this_name", "acme-backend")
    with pytest.raises(UnknownName, match=r"These plugins cannot be used: acme-backend \(ModuleNotFoundError: .*\)\."):
        plugins.backend("acme")


def test_a_backend_whose_requirement_is_missing_says_which_and_what_to_type(install: Install) -> None:
    more = 'requires=("pluggy", "nothing-of-this-name"), install="pip install flsim-acme"'
    plugins = install(ACME, backend_plugin("acme", "x:X", more=more))
    with pytest.raises(BackendUnavailable) as raised:
        plugins.backend("acme")
    assert str(raised.value) == (
        "backend 'acme' needs nothing-of-this-name, which is not installed. Install it with: pip install flsim-acme"
    )


def test_a_missing_requirement_is_said_without_a_line_to_type_where_there_is_none(install: Install) -> None:
    plugins = install(ACME, backend_plugin("acme", "x:X", more='requires=("nothing-of-this-name",)'))
    with pytest.raises(BackendUnavailable, match=r"needs nothing-of-this-name, which is not installed\.$"):
        plugins.backend("acme")


def test_two_distributions_that_claim_a_name_are_both_named(install: Install) -> None:
    install("one_plugin", backend_plugin("acme", "x:X"), "acme-one", version="1.2")
    plugins = install("two_plugin", backend_plugin("acme", "y:Y"), "acme-two", version="3.4")
    with pytest.raises(InputError, match=r"'acme' is claimed by acme-one 1\.2 and acme-two 3\.4; uninstall one"):
        plugins.backend("acme")
    assert [b.spec.name for b in plugins.backends()].count("acme") == 2


def test_a_stranger_that_claims_the_name_of_one_of_ours_does_not_get_it(install: Install) -> None:
    with pytest.raises(InputError, match=r"'serial' is claimed by .*acme 1\.0"):
        install(ACME, backend_plugin("serial", "x:X")).backend("serial")


def test_a_default_that_is_claimed_twice_is_an_error_and_not_passed_over(install: Install) -> None:
    skip_without("loky")
    with pytest.raises(InputError, match="'loky' is claimed by"):
        install(ACME, backend_plugin("loky", "x:X")).default_backend()


def test_a_backend_that_cannot_be_imported_says_why_when_it_is_chosen(install: Install) -> None:
    plugins = install(ACME, backend_plugin("acme", "nothing_of_this_name:Acme"))
    spec = plugins.backend("acme").spec
    with pytest.raises(
        BackendUnavailable, match=r"'acme' cannot be imported: ModuleNotFoundError: No module named 'noth"
    ):
        spec.load()


@pytest.mark.parametrize("target", ["flsim.plugins:Nothing", "flsim.plugins", "flsim.plugins:"])
def test_a_backend_whose_class_is_not_there_says_so(install: Install, target: str) -> None:
    with pytest.raises(BackendUnavailable, match="'acme' cannot be imported: AttributeError"):
        install(ACME, backend_plugin("acme", target)).backend("acme").spec.load()


# ---- what is wrong with a plugin


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("raise RuntimeError('oops')", "RuntimeError: oops"),
        ("def f(:", "SyntaxError: "),
        (f"{HOOK}def flsim_backends():\n    raise KeyError('oops')", "KeyError: 'oops'"),
        (backend_plugin("acme", "x:X", more="honours={'magic'}"), "ValueError: backend 'acme' honours magic; known: "),
        (
            f"{HOOK}def flsim_backend():\n    return []",
            "UnknownName: unknown hook 'flsim_backend'; did you mean 'flsim_backends'\\? Known: flsim_app_options, ",
        ),
        (
            "from flsim.hooks import hookimpl\n@hookimpl(specname='flsim_observr')\ndef f(run): ...",
            "UnknownName: unknown hook 'flsim_observr'; did you mean 'flsim_observer'\\?",
        ),
        (
            f"{HOOK}def flsim_observer(runn): ...",
            "PluginValidationError: .*Argument\\(s\\) {'runn'} are declared in the hookimpl but can not be found",
        ),
        ("def flsim_backends(): ...", "TypeError: flsim_backends is not marked by @hookimpl, so nothing calls it"),
    ],
    ids=[
        "import",
        "raises",
        "syntax",
        "hook raises",
        "honours",
        "misspelt",
        "misspelt specname",
        "wrong argument",
        "unmarked",
    ],
)
def test_a_plugin_with_a_fault_is_a_row_that_says_which(install: Install, text: str, error: str) -> None:
    said = fault(install(ACME, text), ACME)
    assert re.match(error, said)
    assert "\n" not in said


def test_a_plugin_with_a_fault_takes_no_part(install: Install) -> None:
    text = """
    from flsim.hooks import hookimpl
    @hookimpl
    def flsim_observer(run): 1 / 0
    @hookimpl
    def flsim_backend(): ...
    """
    plugins = install(ACME, text)
    assert "unknown hook" in fault(plugins, ACME)
    assert ACME not in {p.__name__ for p in plugins.manager.get_plugins()}


@pytest.mark.parametrize("returned", ["None", "'acme'", "[3]", "[None]"])
def test_a_plugin_that_returns_no_list_of_specs_is_a_row_that_says_so(install: Install, returned: str) -> None:
    error = fault(install(ACME, f"{HOOK}def flsim_backends():\n    return {returned}"), ACME)
    assert error == f"TypeError: flsim_backends returns a list of BackendSpec, not {returned}"


def test_a_plugin_that_exits_on_import_is_a_row_that_says_so(install: Install) -> None:
    assert "SystemExit" in fault(install(ACME, "import sys; sys.exit(3)"), ACME)


# ---- listing


def test_listing_shows_where_a_backend_is_from_whether_it_can_run_and_its_options(tmp_path: Path) -> None:
    more = 'requires=("nothing-of-this-name",), install="pip install flsim-acme"'
    write_plugin(tmp_path, ACME, backend_plugin("acme", "x:X", more=more), distribution="flsim-acme", version="3.1")
    write_plugin(tmp_path, "broken_plugin", "raise RuntimeError('oops')", distribution="flsim-broken")
    shown = flsim("backends", path=[tmp_path])
    assert shown.returncode == 0, shown.stderr
    for text in (
        "flsim-acme 3.1",
        "no: backend 'acme' needs nothing-of-this-name",
        "options of acme (-o KEY=VALUE)",
        "cpus that the run may use",
        "plugin broken_plugin of flsim-broken cannot be used: RuntimeError: oops",
    ):
        assert text in " ".join(shown.stdout.split()), text


def test_a_listing_that_goes_into_a_pipe_keeps_each_backend_on_a_line(tmp_path: Path) -> None:
    more = 'requires=("nothing-of-this-name",), install="pip install flsim-acme"'
    write_plugin(tmp_path, ACME, backend_plugin("acme", "x:X", more=more), distribution="flsim-acme")
    (line,) = [line for line in flsim("backends", path=[tmp_path]).stdout.splitlines() if line.startswith("acme")]
    assert "Install it with: pip install flsim-acme" in line
    assert "a stranger's" in line


def test_listing_as_json_is_json(tmp_path: Path) -> None:
    write_plugin(tmp_path, ACME, backend_plugin("acme", "x:X"), distribution="flsim-acme", version="3.1")
    write_plugin(tmp_path, "broken_plugin", "raise RuntimeError('oops')", distribution="flsim-broken")
    shown = json.loads(flsim("backends", "--json", path=[tmp_path]).stdout)
    rows = {row["name"]: row for row in shown["backends"]}
    assert rows["acme"]["distribution"] == "flsim-acme"
    assert rows["acme"]["honours"] == ["cpus"]
    assert [o["name"] for o in rows["acme"]["options"]] == ["cpus", "gpus", "memory", "custom"]
    assert [row["default"] for row in rows.values()].count(True) == 1
    assert [(b["plugin"], b["error"]) for b in shown["broken plugins"]] == [("broken_plugin", "RuntimeError: oops")]


def test_a_name_that_is_claimed_twice_is_listed_twice_with_the_clash(tmp_path: Path) -> None:
    write_plugin(tmp_path, ACME, backend_plugin("serial", "x:X"), distribution="flsim-acme")
    shown = json.loads(flsim("backends", "--json", path=[tmp_path]).stdout)
    problems = [row["problem"] for row in shown["backends"] if row["name"] == "serial"]
    assert len(problems) == 2
    assert all("claimed by" in p for p in problems)


def test_listing_survives_that_all_defaults_are_claimed_twice(tmp_path: Path) -> None:
    skip_without("loky")
    for name in ("loky", "serial", "acme"):
        write_plugin(tmp_path, f"{name}_again", backend_plugin(name, "x:X"), distribution=f"again-{name}")
    assert flsim("backends", path=[tmp_path]).returncode == 0


def test_listing_survives_a_backend_whose_options_are_no_dataclass(tmp_path: Path) -> None:
    write_plugin(tmp_path, ACME, backend_plugin("acme", "x:X", more="options=dict"), distribution="flsim-acme")
    assert flsim("backends", path=[tmp_path]).returncode == 0


def test_listing_backends_imports_none_and_nothing_heavy(tmp_path: Path) -> None:
    write_plugin(tmp_path, ACME, backend_plugin("acme", "acme_backend:Acme"), distribution="acme")
    write(tmp_path, {"acme_backend.py": "raise RuntimeError('imported')"})
    code = """
    import contextlib, sys
    from flsim.cli import main
    sys.argv = ["flsim", "backends", "--json"]
    with contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):
        main()
    print(*sys.modules)
    """
    modules = set(python(code, path=[tmp_path]).split())
    assert ACME in modules
    assert "flsim_serial.plugin" in modules
    heavy = {"numpy", "loky", "cloudpickle", "threadpoolctl", "asyncio", "flsim.engine", "flsim.worker", "flsim.grid"}
    heavy |= {"acme_backend", "flsim_serial.backend", "flsim_loky.backend", "flsim_progress.plain"}
    assert not heavy & modules


# ---- the namesake


def test_the_namesake_is_refused_with_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_namesake()
    write(tmp_path, NAMESAKE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"Type: pip uninstall flsim, then: pip install .*flsim-engine"):
        refuse_namesake()


@pytest.mark.parametrize("command", [["backends"], ["run", "app.py"]])
def test_flsim_does_not_start_beside_its_namesake(tmp_path: Path, command: list[str]) -> None:
    write(tmp_path, NAMESAKE)
    done = flsim(*command, path=[tmp_path])
    assert done.returncode == 2
    assert done.stdout == ""
    assert "the distribution 'flsim' (another project with the same import name)" in done.stderr


def test_flsim_run_from_python_does_not_start_beside_its_namesake(tmp_path: Path) -> None:
    write(
        tmp_path, {"flsim-0.3.dist-info/METADATA": "Metadata-Version: 2.1\nName: flsim\nVersion: 0.3\n", "app.py": APP}
    )
    code = """
    import sys, flsim
    try:
        flsim.run(sys.argv[1], backend="serial")
    except flsim.errors.InputError as e:
        print(e)
    """
    assert "another project" in python(code, tmp_path / "app.py", path=[tmp_path])
