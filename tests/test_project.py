"""An app is found, read and imported; whatever is wrong with it is said before anything runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import APP, TABLE, write, write_app
from helpers import flsim as command

import flsim
from flsim import Resources
from flsim.errors import AppLoadError, ConfigError, FlsimError, UnknownName, UnsupportedResources
from flsim.project import Project, load_project

KINDS = """
[tool.flsim]
server = "app:server"

[[tool.flsim.kinds]]
name = "phone"
client = "app:client"
nodes = 3
[tool.flsim.kinds.resources]
cpus = 0.5
[tool.flsim.kinds.config]
speed.up = 1
speed.down = 2.5

[[tool.flsim.kinds]]
name = "tablet"
client = "app:client"
nodes = 2
"""

ANSWER = """
from flsim import ClientApp, Message, MetricRecord, RecordDict, ServerApp
{imports}
server = ServerApp()
client = ClientApp()

@client.train()
def train(msg, context):
    return Message(RecordDict({{"m": MetricRecord({{"value": {value}}})}}), reply_to=msg)

@server.main()
def main(grid, context):
    (reply,) = grid.send_and_receive([Message(RecordDict(), 2, "train")])
    context.state["m"] = MetricRecord({{"client": reply.content["m"]["value"], "server": {value}}})
"""
"""An app whose server and client both say a value."""


def value_of(app: Path) -> float:
    """Run an app made of :data:`ANSWER` in this process: the value that its server and its client say."""
    values = set(flsim.run(app, backend="serial", quiet=True).state.metric_records["m"].values())
    assert len(values) == 1, f"server and client are of different code: {values}"
    (value,) = values
    assert isinstance(value, int | float)
    return value


def write_answer(app: Path, value: str, *, imports: str = "", **files: str) -> Path:
    return write_app(app, app=ANSWER.format(imports=imports, value=value), **files)


@pytest.fixture
def bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python writes bytecode beside the modules, as it does where nobody tells it not to."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)


def wrong(folder: Path, table: str, **files: str) -> str:
    """What is said of an app with this table: bad input, and the file is named first."""
    app = write_app(folder / "wrong", table, **files)
    with pytest.raises((ConfigError, UnknownName)) as raised:
        load_project(app)
    start = f"{app / 'pyproject.toml'}: "
    assert str(raised.value).startswith(start)
    return str(raised.value).removeprefix(start)


# ---- finding it


def test_a_folder_with_a_table_is_an_app(tmp_path: Path) -> None:
    table = """
    [project]
    name = "my-app"
    [tool.flsim]
    server = "app:server"
    client = "app:client"
    nodes = 3
    seed = 7
    backend = "serial"
    [tool.flsim.resources]
    cpus = 2
    gpus = 0.5
    memory = "2GiB"
    custom = { slots = 1 }
    [tool.flsim.config]
    rounds = 30
    rate = 0.1
    name = "x"
    on = true
    opt.momentum = 0.9
    opt.inner.decay = 1
    [tool.flsim.backends.serial]
    cpus = 4
    """
    project = load_project(write_app(tmp_path, table))
    assert (project.name, project.seed, project.backend) == ("my-app", 7, "serial")
    assert str(project.server) == "app:server"
    (kind,) = project.kinds
    assert (kind.name, kind.nodes, str(kind.client), dict(kind.config)) == ("default", 3, "app:client", {})
    assert kind.resources == Resources(2, 0.5, 2 * 2**30, {"slots": 1})
    assert dict(project.config) == {
        "rounds": 30,
        "rate": 0.1,
        "name": "x",
        "on": True,
        "opt.momentum": 0.9,
        "opt.inner.decay": 1,
    }
    assert project.options == {"serial": {"cpus": 4}}


def test_what_a_table_leaves_out_has_its_default(tmp_path: Path) -> None:
    project = load_project(write_app(tmp_path / "folder"))
    assert (project.name, project.seed, project.backend) == ("folder", None, None)
    assert (dict(project.config), dict(project.options)) == ({}, {})
    assert project.kinds[0].resources == Resources()


def test_kinds_have_their_own_name_nodes_resources_and_config(tmp_path: Path) -> None:
    phone, tablet = load_project(write_app(tmp_path, KINDS)).kinds
    assert (phone.name, phone.nodes, phone.resources) == ("phone", 3, Resources(cpus=0.5))
    assert dict(phone.config) == {"speed.up": 1, "speed.down": 2.5}
    assert (tablet.name, tablet.nodes, tablet.resources, dict(tablet.config)) == ("tablet", 2, Resources(), {})


def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_app(tmp_path / "folder")
    monkeypatch.chdir(tmp_path / "folder")
    assert load_project(".").name == "folder"
    assert load_project("app.py").name == "app"


def test_one_file_is_an_app_of_ten_nodes_with_its_apps_found_by_type(tmp_path: Path) -> None:
    text = APP.replace("server", "my_server").replace("client", "anything")
    project = load_project(write(tmp_path, {"single.py": text}) / "single.py")
    assert project.name == "single"
    assert (str(project.server), str(project.kinds[0].client)) == ("single:my_server", "single:anything")
    assert project.kinds[0].nodes == 10


def test_a_second_name_of_one_app_is_no_second_app(tmp_path: Path) -> None:
    project = load_project(write(tmp_path, {"twice.py": f"{APP}\napp = server\n"}) / "twice.py")
    assert str(project.server) == "twice:server"


@pytest.mark.parametrize("name", ["my-app.py", "1st.py", "two words.py", "class.py"])
def test_a_file_whose_name_is_no_identifier_is_an_app(tmp_path: Path, name: str) -> None:
    assert flsim.run(write(tmp_path, {name: APP}) / name, backend="serial", quiet=True).answered == 10


def test_a_file_with_a_dot_in_its_name_is_an_app(tmp_path: Path) -> None:
    assert load_project(write(tmp_path, {"app.v2.py": APP}) / "app.v2.py").name == "app.v2"


@pytest.mark.parametrize("name", ["json.py", "flsim.py"])
def test_a_file_with_the_name_of_a_module_that_is_loaded_is_an_app(tmp_path: Path, name: str) -> None:
    assert len(load_project(write(tmp_path, {name: APP}) / name).kinds) == 1


def test_a_path_without_anything_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no app at .*nowhere: neither a folder nor a file"):
        load_project(tmp_path / "nowhere")


def test_a_folder_without_a_pyproject_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no pyproject\.toml, so it is no app"):
        load_project(tmp_path)


def test_a_file_that_is_not_python_is_named_with_what_an_app_is(tmp_path: Path) -> None:
    path = write(tmp_path, {"app.ipynb": ""}) / "app.ipynb"
    with pytest.raises(
        ConfigError, match=r"app\.ipynb is no Python file; an app is a folder with a pyproject\.toml, or"
    ):
        load_project(path)


@pytest.mark.parametrize("table", ["", "[tool.other]\nx = 1", "[tool]\nflsim = 3"])
def test_a_pyproject_without_the_table_is_named(tmp_path: Path, table: str) -> None:
    with pytest.raises(ConfigError, match=r"pyproject\.toml has no \[tool\.flsim\] table, so app is no flsim app"):
        load_project(write_app(tmp_path / "app", table))


@pytest.mark.parametrize(
    ("text", "where"), [("a = \n", "line 1"), ("a = 1\na = 2\n", "line 2"), ('x = "\ud800"', "utf-8")]
)
def test_a_pyproject_that_is_no_toml_is_named_with_the_place(tmp_path: Path, text: str, where: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match=rf"pyproject\.toml: .*{where}"):
        load_project(tmp_path)


@pytest.mark.parametrize("table", ["tool = 3", f"project = 3\n{TABLE}"], ids=["tool", "project"])
def test_a_pyproject_of_another_form_is_named(tmp_path: Path, table: str) -> None:
    with pytest.raises(ConfigError, match=r"pyproject\.toml"):
        load_project(write_app(tmp_path, table))


def test_a_file_without_an_app_of_a_type_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"empty\.py has no ServerApp at module level"):
        load_project(write(tmp_path, {"empty.py": ""}) / "empty.py")
    text = "from flsim import ServerApp\nserver = ServerApp()\n"
    with pytest.raises(ConfigError, match=r"half\.py has no ClientApp at module level"):
        load_project(write(tmp_path, {"half.py": text}) / "half.py")


@pytest.mark.parametrize("kind", ["ServerApp", "ClientApp"])
def test_two_apps_of_one_type_in_a_file_are_both_named_with_what_to_do(tmp_path: Path, kind: str) -> None:
    text = f"from flsim import ClientApp, ServerApp\nserver, client = ServerApp(), ClientApp()\nother = {kind}()\n"
    with pytest.raises(ConfigError, match=rf"two\.py has 2 {kind}s: {kind[:6].lower()}, other\. .*pyproject\.toml"):
        load_project(write(tmp_path, {"two.py": text}) / "two.py")


# ---- what is wrong with the table


@pytest.mark.parametrize(
    ("key", "near"),
    [("node", "nodes"), ("sever", "server"), ("kind", "kinds"), ("backend_", "backend"), ("configs", "config")],
)
def test_an_unknown_key_is_named_with_the_nearest_and_the_known(tmp_path: Path, key: str, near: str) -> None:
    assert wrong(tmp_path, f"{TABLE}\n{key} = 1") == (
        f"unknown key of [tool.flsim] {key!r}; did you mean {near!r}? "
        "Known: backend, backends, client, config, kinds, nodes, plugins, record, record_rows, resources, runs_dir, "
        "seed, server, time_limit."
    )


def test_an_unknown_key_of_a_kind_is_named_with_the_nearest_and_the_known(tmp_path: Path) -> None:
    assert wrong(tmp_path, f"{KINDS}\nresource = 1") == (
        "unknown key of [[tool.flsim.kinds]] 'resource'; did you mean 'resources'? "
        "Known: client, config, name, nodes, resources, time_limit."
    )


def test_an_unknown_resource_is_named_with_the_nearest_and_the_known(tmp_path: Path) -> None:
    assert wrong(tmp_path, f"{TABLE}\n[tool.flsim.resources]\ngpu = 1") == (
        "unknown resource 'gpu'; did you mean 'gpus'? Known: cpus, custom, gpus, memory."
    )


@pytest.mark.parametrize("key", ["server", "client"])
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("", "{} is missing"),
        ('{} = "app"', "{} = 'app'"),
        ('{} = "app:"', "{} = 'app:'"),
        ('{} = ":server"', "{} = ':server'"),
        ('{} = "a:b:c"', "{} = 'a:b:c'"),
        ("{} = 3", "{} = 3"),
    ],
)
def test_a_reference_that_is_none_is_shown_with_how_to_write_one(
    tmp_path: Path, key: str, line: str, shown: str
) -> None:
    table = TABLE.replace(f'{key} = "app:{key}"', line.format(key))
    assert wrong(tmp_path, table) == f'{shown.format(key)}; write {key} = "package.module:app"'


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("", "nodes is missing: how many nodes run the client? Write nodes = 100"),
        ("nodes = 0", "nodes is a whole number, one or more, not 0"),
        ("nodes = 2.5", "nodes is a whole number, one or more, not 2.5"),
        ('nodes = "3"', "nodes is a whole number, one or more, not '3'"),
        ("nodes = true", "nodes is a whole number, one or more, not True"),
        ("nodes = 3\nseed = -1", "seed is a whole number, zero or more, not -1"),
        ("nodes = 3\nseed = 1.5", "seed is a whole number, zero or more, not 1.5"),
        ("nodes = 3\nseed = true", "seed is a whole number, zero or more, not True"),
        ("nodes = 3\nbackend = 1", "backend is a string, not 1"),
        ("nodes = 3\nconfig = 1", "config is a table, not 1"),
        ("nodes = 3\nresources = 1", "resources is a table, not 1"),
        ("nodes = 3\nbackends = 1", "backends is a table, not 1"),
        ("nodes = 3\nbackends.serial = 1", "serial is a table, not 1"),
        ("nodes = 3\nconfig.a.b = [1]", "config a.b is a bool, int, float or str, not list"),
        ("nodes = 3\nconfig.day = 2030-01-02", "config day is a bool, int, float or str, not date"),
        ("nodes = 3\nresources.cpus = -1", "cpus is zero or more, not -1"),
        ("nodes = 3\nresources.cpus = 'all'", "cpus is a number, not 'all'"),
        ("nodes = 3\nresources.gpus = 1.5", "gpus is a share below 1 or a whole number of devices, not 1.5"),
        ("nodes = 3\nresources.custom = 1", "custom is a table, not 1"),
        ("nodes = 3\nresources.custom.slots = 'x'", "slots is a number, not 'x'"),
        (
            "nodes = 3\nresources.memory = 'big'",
            "memory 'big' is no size; write bytes, or a size such as '2GiB' or '500MB'",
        ),
        (
            "nodes = 3\nresources.memory = [1]",
            "memory [1] is no size; write bytes, or a size such as '2GiB' or '500MB'",
        ),
        ('nodes = 3\n[tool.flsim.config]\n"a.b" = 1\na.b = 2', "config a.b is given twice"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(tmp_path: Path, lines: str, text: str) -> None:
    assert wrong(tmp_path, TABLE.replace("nodes = 3", lines)) == text


def test_kinds_and_client_nodes_resources_exclude_each_other(tmp_path: Path) -> None:
    table = KINDS.replace("[[", "nodes = 3\nclient = 'app:client'\n[[", 1)
    assert wrong(tmp_path, table) == ("[[tool.flsim.kinds]] stands in place of client, nodes; give one or the other")


@pytest.mark.parametrize("kinds", ["kinds = 3", "kinds = []", "kinds = [1]", "[tool.flsim.kinds]\nname = 'a'"])
def test_kinds_that_are_no_array_of_tables_are_refused_with_how_to_write_them(tmp_path: Path, kinds: str) -> None:
    text = wrong(tmp_path, f'[tool.flsim]\nserver = "app:server"\n{kinds}')
    assert text == "kinds is written as [[tool.flsim.kinds]], once for each kind of node"


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('name = "phone"', "", "kind '?': a kind of node needs a name"),
        ('name = "phone"', "name = 3", "kind 3: name is a string, not 3"),
        ("nodes = 3", "", "kind 'phone': nodes is missing: how many nodes run the client? Write nodes = 100"),
        ("nodes = 3", "nodes = 0", "kind 'phone': nodes is a whole number, one or more, not 0"),
        ('client = "app:client"', "", "kind 'phone': client is missing; write client = \"package.module:app\""),
    ],
)
def test_a_wrong_kind_says_what_it_lacks(tmp_path: Path, old: str, new: str, text: str) -> None:
    assert wrong(tmp_path, KINDS.replace(old, new, 1)) == text


def test_a_wrong_kind_is_named(tmp_path: Path) -> None:
    assert "tablet" in wrong(tmp_path, KINDS.replace("nodes = 2", ""))


def test_two_kinds_of_one_name_are_refused(tmp_path: Path) -> None:
    assert "two kinds of node are named 'phone'" in wrong(tmp_path, KINDS.replace("tablet", "phone"))


def test_a_kinds_config_may_not_have_the_engines_own_keys(tmp_path: Path) -> None:
    assert "partition-id" in wrong(tmp_path, KINDS.replace("speed.up", "partition-id"))


# ---- importing it


def test_an_app_that_raises_on_import_is_shown_with_its_own_traceback(tmp_path: Path) -> None:
    app = write_app(tmp_path, app="def f():\n    raise KeyError('oops')\nf()\n")
    with pytest.raises(AppLoadError) as raised:
        load_project(app)
    text = str(raised.value)
    assert f"app cannot be imported from {app}" in text
    assert f'File "{app}/app.py", line 2, in f' in text
    assert text.rstrip().endswith("KeyError: 'oops'")
    assert "importlib" not in text
    assert os.path.join("flsim", "project.py") not in text  # noqa: PTH118  # as a traceback has it


@pytest.mark.parametrize("statement", ["raise SystemExit(0)", "import sys; sys.exit('bye')", "raise BaseException"])
def test_an_app_that_exits_on_import_cannot_be_loaded(tmp_path: Path, statement: str) -> None:
    with pytest.raises(AppLoadError, match="cannot be imported"):
        load_project(write_app(tmp_path, app=statement))


def test_a_syntax_error_is_shown_with_its_line(tmp_path: Path) -> None:
    app = write_app(tmp_path, app="x = 1\ndef f(:\n")
    with pytest.raises(AppLoadError, match="SyntaxError") as raised:
        load_project(app)
    assert f'File "{app}/app.py", line 2' in str(raised.value)


@pytest.mark.parametrize("app", ["def f(:", ""], ids=["syntax error", "no such module"])
def test_an_app_that_cannot_even_begin_to_be_imported_is_shown_without_frames_of_ours(tmp_path: Path, app: str) -> None:
    files = {"app": app} if app else {}
    table = TABLE if app else TABLE.replace("app:server", "appp:server")
    with pytest.raises(FlsimError) as raised:
        load_project(write_app(tmp_path, table, **files))
    assert "importlib" not in str(raised.value)


def test_a_module_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(AppLoadError, match="No module named 'appp'"):
        load_project(write_app(tmp_path, TABLE.replace("app:server", "appp:server")))


def test_an_attribute_that_there_is_not_is_named_with_the_apps_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(AppLoadError, match="app:sever: app has no 'sever'; its apps are: server, client"):
        load_project(write_app(tmp_path, TABLE.replace("app:server", "app:sever")))


def test_an_app_may_be_an_attribute_of_an_attribute(tmp_path: Path) -> None:
    holder = f"{APP}\nclass Holder:\n    server = server\n"
    app = write_app(tmp_path, TABLE.replace("app:server", "app:Holder.server"), app=holder)
    assert flsim.run(app, backend="serial", quiet=True).answered == 3


def test_an_attribute_that_an_attribute_has_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlsimError, match="has no 'app'"):
        load_project(write_app(tmp_path, TABLE.replace("app:server", "app:server.app")))


@pytest.mark.parametrize(("key", "value"), [("server", "app:client"), ("client", "app:server")])
def test_an_app_of_the_other_type_is_refused(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(FlsimError, match=key):
        load_project(write_app(tmp_path, TABLE.replace(f"app:{key}", value)))


@pytest.mark.parametrize("value", ["[1]", "'text'", "None"])
def test_a_reference_to_what_is_no_app_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(FlsimError, match="thing"):
        load_project(write_app(tmp_path, TABLE.replace("app:client", "app:thing"), app=f"{APP}\nthing = {value}\n"))


def test_the_modules_beside_an_app_can_be_imported(tmp_path: Path) -> None:
    files = {"pkg/__init__.py": "", "pkg/deep/__init__.py": "", "pkg/deep/value.py": "VALUE = 42\n"}
    app = write_answer(write(tmp_path, files), "VALUE", imports="from pkg.deep.value import VALUE")
    assert value_of(app) == 42


def test_relative_imports_work_in_a_package(tmp_path: Path) -> None:
    text = ANSWER.format(imports="from .value import VALUE", value="VALUE")
    write(tmp_path, {"pkg/__init__.py": "", "pkg/value.py": "VALUE = 5\n", "pkg/app.py": text})
    assert value_of(write(tmp_path, {"pyproject.toml": TABLE.replace('"app', '"pkg.app')})) == 5


def test_an_app_may_be_a_module_that_is_installed(tmp_path: Path) -> None:
    site = write(tmp_path / "site", {"installed_app.py": APP})
    app = write(tmp_path / "app", {"pyproject.toml": TABLE.replace('"app', '"installed_app')})
    done = command("run", app, "--backend", "serial", path=[site])
    assert done.returncode == 0, done.stderr


# ---- one process, several apps


def test_an_edited_app_is_loaded_anew(tmp_path: Path) -> None:
    for value in (1, 20, 300):  # of different lengths: Python tells a module's edits apart by time and size
        assert value_of(write_answer(tmp_path, str(value))) == value


def test_an_edited_helper_of_an_app_is_loaded_anew(tmp_path: Path) -> None:
    for value in (1, 20, 300):
        app = write_answer(tmp_path, "helper.V", imports="import helper", helper=f"V = {value}\n")
        assert value_of(app) == value


def test_an_edited_helper_beside_an_app_of_one_file_is_loaded_anew(tmp_path: Path) -> None:
    for value in (1, 20, 300):
        app = write_answer(tmp_path, "helper.V", imports="import helper", helper=f"V = {value}\n")
        assert value_of(app / "app.py") == value


def test_an_edit_of_the_same_length_at_the_same_time_is_seen(tmp_path: Path, bytecode: None) -> None:
    for value in (1, 2):
        app = write_answer(tmp_path, str(value))
        os.utime(app / "app.py", (10**9, 10**9))
        assert value_of(app) == value


def test_two_apps_with_the_same_module_names_are_kept_apart(tmp_path: Path) -> None:
    apps = [
        write_answer(tmp_path / f"app{i}", "helper.V", imports="import helper", helper=f"V = {i}\n") for i in range(2)
    ]
    assert [value_of(apps[i]) for i in (0, 1, 0, 1)] == [0, 1, 0, 1]


def test_two_apps_with_the_same_package_names_are_kept_apart(tmp_path: Path) -> None:
    apps = []
    for i in range(2):
        folder = write(tmp_path / f"app{i}", {"pkg/__init__.py": "", "pkg/value.py": f"V = {i}\n"})
        apps.append(write_answer(folder, "value.V", imports="from pkg import value"))
    assert [value_of(apps[i]) for i in (0, 1, 0, 1)] == [0, 1, 0, 1]


def test_two_apps_with_the_same_namespace_packages_are_kept_apart(tmp_path: Path) -> None:
    apps = []
    for i in range(2):
        folder = write(tmp_path / f"app{i}", {"space/value.py": f"V = {i}\n"})
        apps.append(write_answer(folder, "value.V", imports="from space import value"))
    assert [value_of(apps[i]) for i in (0, 1, 0, 1)] == [0, 1, 0, 1]


def test_two_files_in_one_folder_are_two_apps(tmp_path: Path) -> None:
    write(tmp_path, {f"app{i}.py": ANSWER.format(imports="", value=i) for i in range(2)})
    assert [value_of(tmp_path / f"app{i}.py") for i in (0, 1, 0)] == [0, 1, 0]


def test_an_app_that_could_not_be_loaded_can_be_once_it_is_mended(tmp_path: Path) -> None:
    with pytest.raises(AppLoadError):
        load_project(write_answer(tmp_path, "1", imports="import nothing_of_this_name"))
    assert value_of(write_answer(tmp_path, "1")) == 1


@pytest.mark.parametrize("file", ["app.py", "my-app.py"])
def test_a_file_that_could_not_be_imported_is_imported_again(tmp_path: Path, file: str) -> None:
    path = write(tmp_path, {file: "import there\nfrom there import *\n"}) / file
    with pytest.raises(AppLoadError):
        load_project(path)
    write(tmp_path, {"there.py": APP})
    assert load_project(path).name == file.removesuffix(".py")


def test_loading_an_app_forgets_no_module_that_is_not_its_own(tmp_path: Path) -> None:
    others = {"flsim", "numpy", "pytest", "json"}
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in others}
    for i in range(2):
        load_project(write_answer(tmp_path / f"app{i}", "1"))
    assert {name: sys.modules.get(name) for name in before} == before


def test_nothing_is_written_to_the_app(tmp_path: Path, bytecode: None) -> None:
    app = write_answer(tmp_path, "1")
    before = sorted(app.rglob("*"))
    assert value_of(app) == 1
    assert sorted(app.rglob("*")) == before


@pytest.mark.parametrize(
    "stray", ["bad.txt", ".hidden/x.py", "env/pyvenv.cfg", "node_modules/x.py", "__pycache__/x.py"]
)
def test_what_is_no_code_of_the_app_may_lie_in_its_folder(tmp_path: Path, stray: str) -> None:
    app = write(write_answer(tmp_path, "1"), {stray: "not Python"})
    assert value_of(app) == 1


def test_a_dangling_link_in_an_app_is_no_hindrance(tmp_path: Path) -> None:
    app = write_answer(tmp_path, "1")
    (app / "gone.py").symlink_to("nowhere.py")
    assert value_of(app) == 1


# ---- changes to what it says


def project(tmp_path: Path, table: str = TABLE) -> Project:
    return load_project(
        write_app(tmp_path, f"{table}\n[tool.flsim.config]\nrounds = 3\nrate = 0.5\nname = 'x'\non = true")
    )


def test_config_can_be_changed_within_its_types(tmp_path: Path) -> None:
    before = project(tmp_path)
    after = before.with_config({"rounds": 7, "rate": 1, "name": "y", "on": False})
    assert dict(after.config) == {"rounds": 7, "rate": 1.0, "name": "y", "on": False}
    assert type(after.config["rate"]) is float
    assert before.config["rounds"] == 3


def test_an_unknown_config_key_is_named_with_the_nearest_and_where_keys_are_declared(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as raised:
        project(tmp_path).with_config({"round": 7})
    assert str(raised.value) == (
        "unknown config key 'round'; did you mean 'rounds'? Known: name, on, rate, rounds. "
        "Keys are declared under [tool.flsim.config]."
    )


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("rounds", 7.5, "config rounds is of type int (as 3), not 7.5"),
        ("rounds", True, "config rounds is of type int (as 3), not True"),
        ("rounds", "many", "config rounds is of type int (as 3), not 'many'"),
        ("rate", "x", "config rate is of type float (as 0.5), not 'x'"),
        ("name", 3, "config name is of type str (as 'x'), not 3"),
        ("on", 1, "config on is of type bool (as True), not 1"),
        ("rounds", [1], "config rounds is of type int (as 3), not [1]"),
    ],
)
def test_a_config_value_of_another_type_is_refused_with_the_default(
    tmp_path: Path, key: str, value: Any, text: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        project(tmp_path).with_config({key: value})
    assert str(raised.value) == text


def test_a_file_declares_no_keys_so_it_takes_any(tmp_path: Path) -> None:
    loaded = load_project(write(tmp_path, {"single.py": APP}) / "single.py")
    assert dict(loaded.with_config({"rounds": 3, "a.b": "c"}).config) == {"rounds": 3, "a.b": "c"}


@pytest.mark.parametrize("value", [[1], None, {"a": [1]}, object()], ids=lambda v: type(v).__name__)
def test_a_file_takes_no_config_value_that_is_no_scalar(tmp_path: Path, value: Any) -> None:
    loaded = load_project(write(tmp_path, {"single.py": APP}) / "single.py")
    with pytest.raises(ConfigError, match="is a bool, int, float or str"):
        loaded.with_config({"rounds": value})


def test_nested_config_flattens_as_in_a_table(tmp_path: Path) -> None:
    loaded = load_project(write(tmp_path, {"single.py": APP}) / "single.py")
    assert dict(loaded.with_config({"opt": {"rate": 1}}).config) == {"opt.rate": 1}  # type: ignore[dict-item]


def test_the_number_of_nodes_can_be_changed_where_there_is_one_kind(tmp_path: Path) -> None:
    assert [k.nodes for k in project(tmp_path / "one").with_nodes(7).kinds] == [7]
    with pytest.raises(ConfigError, match="--nodes is for a fleet of one kind; this one has several"):
        load_project(write_app(tmp_path / "several", KINDS)).with_nodes(7)


def test_changed_resources_are_those_of_every_kind_beside_what_it_said(tmp_path: Path) -> None:
    loaded = load_project(write_app(tmp_path, KINDS)).with_resources({"gpus": 1, "memory": "1KiB"})
    assert [k.resources for k in loaded.kinds] == [Resources(0.5, 1, 1024), Resources(1, 1, 1024)]
    assert loaded.with_resources({}) is loaded


def test_resources_from_python_leave_what_they_do_not_name_as_the_app_says(tmp_path: Path) -> None:
    app = write_app(tmp_path, f"{TABLE}\n[tool.flsim.resources]\ncpus = 2")
    with pytest.raises(UnsupportedResources, match="need 2 cpu, "):
        flsim.run(app, backend="serial", options={"cpus": 1}, resources={"memory": "1MiB"}, quiet=True)
