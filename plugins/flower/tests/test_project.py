"""A Flower project as it is found, configured and tried, by the command line as Flower's users type it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flowers import BOTH, PYPROJECT, flsim_command, run_json, write_project

from flsim.errors import AppLoadError, FlsimError, InputError, UnknownName
from flsim.find import find_project
from flsim.plugins import Plugins
from flsim.project import Project
from flsim.resources import Resources

CONFIG = """
[tool.flwr.app.config]
rounds = 3
rate = 0.1
name = "a b"
deep = true

[tool.flwr.app.config.model]
size = 5
"""

FEDERATIONS = """
[tool.flwr.federations]
default = "small"

[tool.flwr.federations.small]
options.num-supernodes = 7
options.backend.client-resources.num-cpus = 2

[tool.flwr.federations.large]
options.num-supernodes = 900
options.backend.client-resources.num-gpus = 0.5
options.backend.init-args.num-cpus = 4

[tool.flwr.federations.real]
address = "127.0.0.1:9093"
insecure = true
"""


def found(folder: Path, more: str = "", **given: list[str]) -> Project:
    return find_project(Plugins(), write_project(folder, PYPROJECT + more), given)


# ---- found


def test_a_flower_project_is_recognised_by_its_components(tmp_path: Path) -> None:
    project = found(tmp_path, CONFIG)
    assert (project.name, str(project.server), str(project.kinds[0].client)) == ("mine", "apps:server", "apps:client")
    assert project.path == tmp_path
    assert project.config == {"rounds": 3, "rate": 0.1, "name": "a b", "deep": True, "model.size": 5}


def test_a_project_that_is_also_an_app_of_flsims_own_kind_is_that(tmp_path: Path) -> None:
    table = '[tool.flsim]\nserver = "apps:server"\nclient = "apps:client"\nnodes = 3\n'
    project = found(tmp_path, table)
    assert (project.kinds[0].nodes, project.server.adapter) == (3, None)


def test_flsims_table_may_say_how_a_flower_app_is_run(tmp_path: Path) -> None:
    table = '[tool.flsim]\nseed = 7\nbackend = "serial"\n[tool.flsim.backends.serial]\ncpus = 1\n'
    project = found(tmp_path, table)
    assert (project.seed, project.backend, project.options) == (7, "serial", {"serial": {"cpus": 1}})
    with pytest.raises(UnknownName, match=r"unknown key of \[tool.flsim\] 'nodes'.*tool.flwr.federations"):
        found(tmp_path, "[tool.flsim]\nnodes = 3\n")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (('clientapp = "apps:client"', ""), "clientapp is missing"),
        (('serverapp = "apps:server"', 'agentapp = "a:b"'), "an agentapp cannot be simulated"),
        (('"apps:client"', '"apps"'), 'write clientapp = "package.module:app"'),
        (('"apps:client"', '"apps:server"'), "clientapp is a ServerApp, and no flwr.clientapp.ClientApp"),
        (('"apps:server"', '"apps:client"'), "serverapp is a ClientApp, and no flwr.serverapp.ServerApp"),
        (('version = "1"', "dependencies = 3"), "dependencies is a list of strings"),
        (('publisher = "me"', "config.list = [1]"), "config list is a bool, int, float or str, not list"),
        (("[project]", "[project"), "pyproject.toml: "),
    ],
)
def test_what_is_wrong_with_a_pyproject_is_said(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    before = PYPROJECT.replace(*change)
    assert before != PYPROJECT
    with pytest.raises(InputError) as raised:
        find_project(Plugins(), write_project(tmp_path, before))
    assert text in str(raised.value)
    assert "pyproject.toml" in str(raised.value)


@pytest.mark.parametrize(
    ("apps", "text"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("1 / 0", "ZeroDivisionError"),
        (BOTH.replace("client = ", "other = "), ""),
    ],
)
def test_an_app_that_cannot_be_loaded_stops_before_the_first_message(tmp_path: Path, apps: str, text: str) -> None:
    with pytest.raises(AppLoadError) as raised:
        find_project(Plugins(), write_project(tmp_path, apps=apps))
    assert text in str(raised.value)


def test_an_app_that_cannot_be_loaded_ends_the_command_with_its_traceback(tmp_path: Path) -> None:
    done = flsim_command("run", write_project(tmp_path, apps="import not_there"), "-b", "serial")
    assert (done.returncode, done.stdout) == (1, "")
    assert "import not_there" in done.stderr
    assert "No module named 'not_there'" in done.stderr


# ---- --run-config


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["rounds=5"], {"rounds": 5}),
        (["rounds=5 rate=0.5 name='x y' deep=false"], {"rounds": 5, "rate": 0.5, "name": "x y", "deep": False}),
        (['name="k=v"', "model.size=7"], {"name": "k=v", "model.size": 7}),
        (["rounds=5", "rounds=6"], {"rounds": 6}),
        (["rounds='five'"], {"rounds": "five"}),
        (["  rounds=5\n rate=1e-3 "], {"rounds": 5, "rate": 1e-3}),
        (["model={size=9}"], {"model.size": 9}),
        (["name='# no comment'"], {"name": "# no comment"}),
        ([""], {}),
    ],
)
def test_run_config_is_taken_as_flower_takes_it(tmp_path: Path, given: list[str], expected: dict[str, Any]) -> None:
    plain = dict(found(tmp_path, CONFIG).config)
    assert dict(found(tmp_path, CONFIG, run_config=given).config) == {**plain, **expected}


def test_run_config_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text("rounds = 8\n[model]\nsize = 9\n")
    config = found(tmp_path, CONFIG, run_config=[str(file)]).config
    assert (config["rounds"], config["model.size"], config["rate"]) == (8, 9, 0.1)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["round=5"], "unknown key of --run-config 'round'; did you mean 'rounds'?"),
        (["rounds = 5"], "'rounds = 5' is not of the form key=value, without spaces around the ="),
        (["rounds=5 and more"], "'and more' is not of the form key=value"),
        (["name=hello"], 'name=hello is no TOML'),
        (["name=hello"], 'a string has quotes: name="hello"'),
        (["rounds=[1]"], "config rounds is a bool, int, float or str, not list"),
        (["#rounds=5"], "of #rounds=5 all from the # on would be left out"),
        (["rounds=1 #rate=2"], "of #rate=2 all from the # on would be left out"),
        (["rounds=5#7"], "of rounds=5#7 all from the # on would be left out"),
        (["rounds={}"], "rounds={} has no value"),
        (["rounds=1 rounds=2"], "rounds is given twice in 'rounds=1 rounds=2'"),
        (["deep=True"], "; write deep=true"),
        (["rate=.1"], "; write rate=0.1"),
        (["a.toml", "rounds=1"], "takes one .toml file, and nothing beside it"),
        (["nowhere.toml"], "--run-config nowhere.toml: "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_run_config_is_said(tmp_path: Path, given: list[str], text: str) -> None:
    with pytest.raises(InputError) as raised:
        found(tmp_path, CONFIG, run_config=given)
    assert text in str(raised.value)


def test_a_value_that_flower_ignores_in_silence_ends_the_command(tmp_path: Path) -> None:
    app = write_project(tmp_path, PYPROJECT + CONFIG)
    done = flsim_command("run", app, "--run-config", "rounds = 5")
    assert done.returncode == 2
    assert "is not of the form key=value" in done.stderr


def test_both_sides_get_the_configuration_and_it_is_theirs_to_read(tmp_path: Path) -> None:
    check = "assert replies[0].content['config'] == context.run_config"
    apps = BOTH.replace('    context.state["config"]', f'    {check}\n    context.state["config"]')
    app = write_project(tmp_path, PYPROJECT + CONFIG, apps)
    done = flsim_command("run", app, "-b", "serial", "-c", "rounds=4", "-c", "model.size=6", "--set", "rate=0.7")
    assert done.returncode == 0, done.stderr


# ---- federations


@pytest.mark.parametrize(
    ("given", "nodes", "resources"),
    [
        ({}, 7, Resources(cpus=2)),
        ({"federation": ["large"]}, 900, Resources(gpus=0.5)),
        ({"federation_config": ["num-supernodes=20"]}, 20, Resources(cpus=2)),
        ({"federation_config": ["options.num-supernodes=20 options.backend.client-resources.num-cpus=0.5"]}, 20,
         Resources(cpus=0.5)),
        ({"federation_config": ["client-resources-num-cpus=1", "client-resources-num-gpus=0.25"]}, 7,
         Resources(cpus=1, gpus=0.25)),
    ],
)  # fmt: skip
def test_the_federation_says_how_many_nodes_and_what_each_needs(
    tmp_path: Path, given: dict[str, list[str]], nodes: int, resources: Resources
) -> None:
    (kind,) = found(tmp_path, FEDERATIONS, **given).kinds
    assert (kind.nodes, kind.resources) == (nodes, resources)


def test_without_a_federation_that_is_simulated_there_are_flowers_two_nodes(tmp_path: Path) -> None:
    assert found(tmp_path).kinds[0].nodes == 2
    real = FEDERATIONS.replace('default = "small"', 'default = "real"')
    assert found(tmp_path, real).kinds[0].nodes == 2


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"federation": ["smal"]}, "unknown federation 'smal'; did you mean 'small'?"),
        ({"federation": ["real"]}, "the federation 'real' is at '127.0.0.1:9093', and not simulated"),
        ({"federation": ["small", "large"]}, "--federation takes one name"),
        ({"federation_config": ["num-supernode=3"]}, "did you mean 'num-supernodes'?"),
        ({"federation_config": ["num-supernodes=0"]}, "num-supernodes is a whole number, one or more, not 0"),
        ({"federation_config": ["num-supernodes=true"]}, "num-supernodes is a whole number, one or more, not True"),
        ({"federation_config": ["client-resources-num-cpus='1'"]}, "client-resources-num-cpus is a number, not '1'"),
        ({"federation_config": ["client-resources-num-cpus=-1"]}, "cpus"),
        ({"federation_config": ["init-args-num-cpus=4"]}, "-o cpus=… says what the place has"),
        ({"federation_config": ["backend='ray'"]}, "--backend says where ClientApps run"),
        ({"federation_config": ["init-args-address='x'"]}, "'flsim backends' lists the options of a backend"),
    ],
)
def test_what_is_wrong_with_a_federation_is_said(tmp_path: Path, given: dict[str, list[str]], text: str) -> None:
    with pytest.raises(FlsimError) as raised:
        found(tmp_path, FEDERATIONS, **given)
    assert text in str(raised.value)


def test_what_a_project_says_of_flowers_ray_is_not_used_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found(tmp_path, FEDERATIONS, federation=["large"])
    assert "the federation 'large' has init-args-num-cpus, which is not used" in caplog.text


OLD = """
[tool.flwr.federations]
default = "old"

[tool.flwr.federations.old.options]
num-supernodes = 3
enable-tf-gpu-growth = true

[tool.flwr.federations.old.options.backend]
actor.tensorflow = 0
client-resources.memory = 5
init-args.runtime-env.pip = ["x"]
"""


def test_what_a_project_says_of_any_version_of_flowers_engine_is_named_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert found(tmp_path, OLD).kinds[0].nodes == 3
    for key in ("enable-tf-gpu-growth", "actor-tensorflow", "client-resources-memory", "init-args-runtime-env-pip"):
        assert f"the federation 'old' has {key}, which is not used" in caplog.text
    with pytest.raises(InputError, match="options is a table, not 'all'"):
        found(tmp_path, '[tool.flwr.federations]\ndefault = "odd"\nodd.options = "all"\n')


def test_flsims_own_options_come_before_the_federation(tmp_path: Path) -> None:
    app = write_project(tmp_path, PYPROJECT + FEDERATIONS)
    args = ("--federation-config", "num-supernodes=20", "--nodes", "3", "--cpus", "1", "--dry-run", "-b", "serial")
    plan = run_json(app, *args)
    assert (plan["kinds"][0]["nodes"], plan["kinds"][0]["needs"]) == (3, "1 cpu")


# ---- what is shown


def test_a_dry_run_shows_what_would_run_what_is_missing_and_one_message_to_one_node(tmp_path: Path) -> None:
    needs = 'version = "1"\ndependencies = ["flwr", "not-there>=3", "numpy<1", "!"]'
    app = write_project(tmp_path, PYPROJECT.replace('version = "1"', needs) + CONFIG)
    done = flsim_command("run", app, "--dry-run", "-b", "serial", "--nodes", "5", "--seed", "1")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "mine: would run server apps:server" in text
    assert "5 nodes of kind default: client apps:client, each 1 cpu" in text
    assert "model.size=5" in text
    assert "needs what is not here: not-there is not installed" in text
    assert "needs what is not here: numpy is " in text
    assert "needs what is not here: '!', which cannot be read" in text
    assert "its first message, 'query', to node 2, was answered with config" in text


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_a_dry_run_sends_one_message_and_no_more(tmp_path: Path, backend: str) -> None:
    asked = tmp_path / "asked"
    apps = BOTH.replace('print("the client prints")', f"open({str(asked)!r}, 'a').write('x')")
    done = flsim_command("run", write_project(tmp_path / "app", apps=apps), "--dry-run", "-b", backend, "-n", "5")
    assert done.returncode == 0, done.stderr
    assert asked.read_text() == "x"


LEGACY = """
from pathlib import Path
import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

def note(what):
    with open(NOTES, "a") as file:
        file.write(f"{what}\\n")

class Client(NumPyClient):
    def fit(self, parameters, config):
        note("fit")
        return parameters, 1, {}

class Strategy(FedAvg):
    def aggregate_fit(self, server_round, results, failures):
        note("aggregate")
        return super().aggregate_fit(server_round, results, failures)

def evaluate(server_round, parameters, config):
    note(f"evaluate {server_round}")

def server_fn(context):
    strategy = Strategy(
        initial_parameters=ndarrays_to_parameters([np.zeros(3)]), evaluate_fn=evaluate,
        min_fit_clients=8, min_available_clients=8, fraction_evaluate=0.0,
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=3))

server, client = ServerApp(server_fn=server_fn), ClientApp(lambda context: Client().to_client())
"""


@pytest.mark.parametrize("backend", ["serial", "loky"])
def test_a_dry_run_of_the_older_api_whose_threads_send_at_once_sends_one_message_too(
    tmp_path: Path, backend: str
) -> None:
    notes = tmp_path / "notes"
    app = write_project(tmp_path / "app", apps=f"NOTES = {str(notes)!r}\n{LEGACY}")
    done = flsim_command("run", app, "--dry-run", "-b", backend, "-n", "8")
    assert done.returncode == 0, done.stderr
    assert "its first message, 'train', to node" in done.stdout
    assert notes.read_text().split("\n") == ["evaluate 0", "fit", ""]


def test_a_dry_run_whose_message_fails_fails(tmp_path: Path) -> None:
    apps = BOTH.replace('print("the client prints")', "1 / 0")
    done = flsim_command("run", write_project(tmp_path, apps=apps), "--dry-run", "-b", "serial")
    assert done.returncode == 1
    assert "its first message, 'query', to node 2, got error 2: <class 'ZeroDivisionError'>" in done.stderr


def test_a_dry_run_of_a_server_that_raises_or_sends_nothing(tmp_path: Path) -> None:
    raising = write_project(tmp_path / "a", apps=BOTH.replace("    replies =", "    1 / 0\n    replies ="))
    done = flsim_command("run", raising, "--dry-run", "-b", "serial")
    assert (done.returncode, "ZeroDivisionError" in done.stderr) == (1, True)
    quiet = write_project(tmp_path / "b", apps=BOTH.replace("    replies =", "    return\n    replies ="))
    done = flsim_command("run", quiet, "--dry-run", "-b", "serial")
    assert (done.returncode, "the ServerApp returned without sending a message" in done.stdout) == (0, True)


def test_what_a_client_logs_and_prints_is_shown_as_its_nodes(tmp_path: Path) -> None:
    log = "from logging import INFO\nfrom flwr.common.logger import log\n" + BOTH.replace(
        'print("the client prints")', 'print("printed"); log(INFO, "logged")'
    )
    done = flsim_command("run", write_project(tmp_path, apps=log), "-b", "loky", "-n", "1")
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "node 2 (partition 0) | " in line]
    assert any("printed" in line for line in lines)
    assert any("INFO :      logged" in line for line in lines), "without the codes of its colours"


def test_help_shows_flowers_options(tmp_path: Path) -> None:
    text = flsim_command("run", "--help").stdout
    assert "-c, --run-config CONFIG" in text
    assert "--federation-config CONFIG" in text
