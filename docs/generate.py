"""What the pages take from the code. Each function prints Markdown; cog calls them and keeps the result in the page.

`nox -s regenerate` writes it anew, and a test compares.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import os
import re
import runpy
import shlex
import tomllib
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

from typer.testing import CliRunner

from flsim import events
from flsim.cli.app import app
from flsim.cli.commands import with_commands
from flsim.errors import FlsimError
from flsim.options import type_name
from flsim.plugins import Plugins
from flsim.project import _KEYS, _KIND_KEYS
from flsim.resources import Resources
from flsim.testing.checks import CHECKS

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = ("flsim-engine", "flsim-loky", "flsim-dask", "flsim-ray")
"""Those whose backends the pages show, whatever else is installed beside them."""
BACKENDS = ("serial", "loky", "dask", "ray")


@contextmanager
def _ours_alone() -> Iterator[None]:
    """Hide the plugins of others, so that the pages do not depend on what is installed."""
    find = metadata.entry_points

    def found(*, group: str) -> list[metadata.EntryPoint]:
        return [e for e in find(group=group) if group != "flsim" or (e.dist and e.dist.name in DISTRIBUTIONS)]

    with mock.patch.object(metadata, "entry_points", found):
        yield


def _plugins() -> Plugins:
    with _ours_alone():
        return Plugins()


def command(line: str, folder: str = ".") -> None:
    """A command of flsim as it is typed, and what it prints where its output is no terminal."""
    environment = {"COLUMNS": "80", "NO_COLOR": "1"}
    here = Path.cwd()
    try:
        os.chdir(ROOT / folder)
        with _ours_alone():
            result = CliRunner().invoke(with_commands(app, Plugins()), shlex.split(line)[1:], env=environment)
    finally:
        os.chdir(here)
    if isinstance(result.exception, FlsimError):  # as flsim.cli.main shows it
        result.stdout_bytes += f"error: {result.exception}".encode()
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    text = "\n".join(row.rstrip() for row in result.stdout.rstrip().splitlines())
    # What differs from run to run, and from host to host.
    text = re.sub(r"[\d.]+ s, [\d,]+ messages/s", "0.12 s, 1,250 messages/s", text)
    text = re.sub(r"kept in runs/\S+", "kept in runs/20261124T205705-app-e33eaec1", text)
    text = re.sub(r"\((this \w+): [^)]*\)", r"(\1: 4 cpu, 16 GiB)", text)
    print(f"```text\n$ {line}\n{text}\n```")


def backends() -> None:
    """The backends as a table."""
    plugins = _plugins()
    print("| backend | distribution | what it is | honours |\n|---|---|---|---|")
    for name in BACKENDS:
        offer = plugins.backend(name)
        honours = ", ".join(sorted(offer.spec.honours))
        print(f"| `{name}` | `{offer.plugin.distribution}` | {offer.spec.summary} | {honours} |")


def options(backend: str) -> None:
    """The options of a backend as a table."""
    spec = _plugins().backend(backend).spec
    types = typing.get_type_hints(spec.options)
    print("| option | type | default | what it is |\n|---|---|---|---|")
    for field in dataclasses.fields(spec.options):
        text, _, given = field.metadata["help"].partition("; default: ")
        default = given or ("none" if field.default is None else f"`{field.default!r}`")
        print(f"| `{field.name}` | {type_name(types[field.name])} | {default} | {_cell(text)} |")


KEYS: Mapping[str, tuple[str, str, str]] = {
    "server": ("str", "must be given", 'the ServerApp, as `"package.module:name"`'),
    "client": ("str", "must be given", "the ClientApp, or what makes one when it is called with a Context"),
    "nodes": ("int", "must be given", "how many virtual nodes run the client"),
    "time_limit": ("float", "none", "seconds that one message may run: [limits](limits.md#what-may-take-how-long)"),
    "seed": ("int", "drawn, and shown", "makes the run repeatable"),
    "backend": ("str", "loky where it is installed, else serial", "where ClientApps run"),
    "resources": ("table", "one cpu", "what one ClientApp needs: [resources](#resources)"),
    "config": ("table", "empty", "`context.run_config`: [config](#config)"),
    "backends": ("table", "empty", "options by backend: [backends](#backends)"),
    "plugins": ("table", "empty", "plugins that take part, and their options: [plugins](#plugins)"),
    "record": ("bool", "`true` for `flsim run`", "whether a run is kept in a folder of its own: [runs](runs.md)"),
    "runs_dir": ("str", "`runs`, in the current folder", "the folder that holds those of runs"),
    "record_rows": ("int", "1,000,000", "messages of a run of which a row is kept, at most"),
    "kinds": ("tables", "one kind", "in place of `client`, `nodes`, `time_limit` and `resources`: [kinds](#kinds)"),
}
KIND: Mapping[str, tuple[str, str, str]] = {
    "name": ("str", "must be given", "what `grid.get_node_ids(kind)` takes"),
    "client": KEYS["client"],
    "nodes": ("int", "must be given", "how many virtual nodes are of this kind"),
    "time_limit": KEYS["time_limit"],
    "resources": KEYS["resources"],
    "config": ("table", "empty", "what `context.node_config` of these nodes holds beside its own two keys"),
}
RESOURCES: Mapping[str, tuple[str, str]] = {
    "cpus": ("float", "cpus; a fraction shares one. BLAS and OpenMP get as many threads, at least one"),
    "gpus": ("float", "gpus; below 1 a share of one device, else a whole number of them"),
    "memory": ("int or str", 'bytes, or a size such as `"2GiB"`, that it may hold; 0: not booked'),
    "custom": ("table", "amounts of what else places have, by name"),
}


def keys() -> None:
    """The keys of [tool.flsim]."""
    _keys(KEYS, _KEYS)


def kind_keys() -> None:
    """The keys of [[tool.flsim.kinds]]."""
    _keys(KIND, _KIND_KEYS)


def _keys(described: Mapping[str, tuple[str, str, str]], known: set[str]) -> None:
    _same("keys", described, known)
    print("| key | type | default | what it is |\n|---|---|---|---|")
    for key, (kind, default, text) in described.items():
        print(f"| `{key}` | {kind} | {default} | {text} |")


def resources() -> None:
    """The keys of [tool.flsim.resources]."""
    fields = {f.name: f for f in dataclasses.fields(Resources)}
    _same("resources", RESOURCES, fields)
    print("| key | type | default | what it is |\n|---|---|---|---|")
    for name, (kind, text) in RESOURCES.items():
        default = "empty" if kind == "table" else f"`{fields[name].default:g}`"
        print(f"| `{name}` | {kind} | {default} | {text} |")


def measured(file: str, measures: Mapping[str, str], *cases: str) -> None:
    """What `flsim bench` has measured, as a table: a line for each case and measure, a column for each subject.

    Args:
        file: in docs/measured, as `--json` has written it.
        measures: those that are shown, with what they are called.
        cases: those that are shown; all where none is given.
    """
    data = json.loads((ROOT / "docs" / "measured" / file).read_text())
    found = {(s["case"], s["measure"], s["subject"]): s for s in data["summaries"]}
    subjects = [s["label"] for s in data["subjects"]]
    print(f"| case | measure | {' | '.join(subjects)} |\n|---|---|{'---:|' * len(subjects)}")
    for case in cases or dict.fromkeys(c for c, _, _ in found):
        for measure, title in measures.items():
            cells = [_figure(found.get((case, measure, s))) for s in subjects]
            if any(cells):
                print(f"| {case} | {title} | {' | '.join(cells)} |")


def _figure(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return ""
    value = summary["median"]
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"
    if (ratio := summary["ratio"]) is None:
        return text
    return f"{text} ({ratio:,.0f} ×)" if ratio >= 10 else f"{text} ({ratio:.2g} ×)"


CLAUSES: Mapping[int, tuple[str, str]] = {
    1: (
        "A future is completed exactly once",
        "The future of a lease is completed once, also when its worker dies. It fails only with `WorkerLost(cause)`, "
        "or with `BackendBroken`, which ends the run. *exited*, *signal*, *memory* and *unknown* charge a message that "
        "was alone in its lease; *left*, *aborted* and *not started* charge nobody. What an app raises or returns is "
        "never the future's failure.",
    ),
    2: (
        "One fault domain per lease",
        "A worker process runs one lease at a time, and its death costs that lease and no other. A dead worker is "
        "replaced before it is offered work again.",
    ),
    3: (
        "What is declared is honoured, and what is not is refused",
        "A need that the backend does not honour, or that fits into none of its places, is an error before the first "
        "message. The needs at work at once never exceed what there is.",
    ),
    4: ("Threads", "While a message runs, BLAS and OpenMP have `max(1, floor(cpus))` threads."),
    5: ("Equal submissions both run", "No result of an earlier lease answers a later one."),
    6: (
        "Start and stop",
        "`stop` gives back what `start` took, and only that: no thread, process, port or file is left, however often. "
        "The same holds within five seconds for a driver that is killed. A cluster that was joined is left running.",
    ),
    7: ("Submit has its time", "`submit` before `start` or after `stop` raises."),
    8: (
        "Other hosts",
        "The app runs on hosts that do not have its folder, each run with the code that it began with. What it needs "
        "and a host lacks is named before the ServerApp is called.",
    ),
    9: ("Printing", "A worker may print a megabyte without slowing or garbling the run."),
    10: (
        "Determinism",
        "The same seed gives the same content of every reply, and the same digest, with any number of workers, "
        "whatever died on the way: see [Determinism](determinism.md).",
    ),
    11: (
        "Ports and secrets",
        "What is opened can be reached from this host alone, unless the user asks for more. What is secret stays in "
        "the memory of the processes that need it: see [Security](SECURITY.md).",
    ),
    12: (
        "Payload",
        "What many messages carry arrives in each as it was when it was pushed, whether `share` moves it once or each "
        "lease carries it, and outlives the workers that had it. ClientApps cannot write to it.",
    ),
    13: (
        "Whole runs",
        "What goes wrong in an app or in a worker costs what it must, and nothing else: the catalogue of "
        "[faults](catalogue.md) says row by row what.",
    ),
}


def contract() -> None:
    """The contract: each clause, and its checks."""
    _same("clauses", CLAUSES, {c.clause for c in CHECKS})
    for clause, (title, text) in CLAUSES.items():
        print(f"## {clause}. {title}\n\n{text}\n")
        for check in (c for c in CHECKS if c.clause == clause):
            only = f" *(if it honours {', '.join(sorted(check.needs))})*" if check.needs else ""
            says = " ".join(inspect.getdoc(check.run).split())  # type: ignore[union-attr]  # all have one
            print(f"`{check.name}`{only}\n: {says}\n")


def catalogue() -> None:
    """The catalogue of faults: what each backend holds, and which tests show it."""
    data = tomllib.loads((ROOT / "docs" / "catalogue.toml").read_text(encoding="utf-8"))
    rows = data["row"]
    for backend in BACKENDS:
        declared = sum(backend in row.get("declared", {}) for row in rows)
        but = sum(backend in row.get("but", {}) for row in rows)
        held = f"{len(rows) - declared} of {len(rows)} rows held" + (f" ({but} with a *but*)" if but else "")
        print(f"- **{backend}**: {held}, {declared} declared impossible")
    print(f"\n| row | {' | '.join(BACKENDS)} | fault, and what shows it |\n|---:|{'---|' * len(BACKENDS)}---|")
    for row in rows:
        reasons = {b: data.get(text, text) for b, text in row.get("declared", {}).items()}
        but = row.get("but", {})
        cells = ["declared" if b in reasons else "held, but" if b in but else "held" for b in BACKENDS]
        shown = [", ".join(f"`{name}`" for name in row["all"])] if "all" in row else []
        if "engine" in row:
            shown.append("in the engine: " + ", ".join(f"`{name}`" for name in row["engine"]))
        for names in dict.fromkeys(tuple(row[b]) for b in BACKENDS if b in row):
            who = ", ".join(b for b in BACKENDS if tuple(row.get(b, ())) == names)
            shown.append(f"{who}: " + ", ".join(f"`{name.rpartition('::')[2]}`" for name in names))
        for said, word in ((reasons, ""), (but, ", but")):
            for reason in dict.fromkeys(said.values()):
                shown.append(f"*{', '.join(b for b in said if said[b] == reason)}{word}: {reason}*")
        print(f"| {row['number']} | {' | '.join(cells)} | {_cell(row['fault'])}<br>{'<br>'.join(shown)} |")


def event_types() -> None:
    """The events that an observer gets."""
    print("| event | when | what it holds |\n|---|---|---|")
    for event in typing.get_args(events.Event):
        says = " ".join((inspect.getdoc(event) or "").split()).removesuffix(".")
        holds = "`worker`, `lease`, `lost`, its length, `failed`, and `answers()`"  # of the one that is no dataclass
        if dataclasses.is_dataclass(event):
            holds = ", ".join(f"`{f.name}`" for f in dataclasses.fields(event)) or "–"
        print(f"| `{event.__name__}` | {says} | {holds} |")


def sessions() -> None:
    """The sessions of nox, from its file's functions and their docstrings."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    print("| session | what it does | by default |\n|---|---|---|")
    for node in tree.body:
        marks = [ast.unparse(d) for d in getattr(node, "decorator_list", ())]
        if isinstance(node, ast.FunctionDef) and any(m.startswith("nox.session") for m in marks):
            default = "no" if "nox.session(default=False)" in marks else "yes"
            print(f"| `{node.name}` | {ast.get_docstring(node)} | {default} |")


def mutants() -> None:
    """The bugs that are planted, and the tests that must find each."""
    print("| bug | planted into | found by |\n|---|---|---|")
    for mutant in runpy.run_path(str(ROOT / "tests/mutants/catalogue.py"))["MUTANTS"]:
        tests = sorted({f"`{Path(test.partition('::')[0]).name}`: {_sentence(test)}" for test in mutant.red})
        print(f"| {_cell(mutant.bug)} | `{Path(mutant.file).name}` | {_cell('; '.join(tests))} |")


def _sentence(test: str) -> str:
    """What a test says, from its id."""
    name = test.rpartition("::")[2].removeprefix("test_")
    name, _, parameter = name.partition("[")
    if name == "clause":
        backend, clause, name = parameter.rstrip("]").split("-")
        return f"clause {clause}, {name.replace('_', ' ')} ({backend})"
    return name.replace("_", " ") + (f" ({parameter.rstrip(']')})" if parameter else "")


def _same(what: str, described: typing.Iterable[Any], known: typing.Iterable[Any]) -> None:
    if differ := set(described) ^ set(known):
        raise ValueError(f"these {what} are in the code or described in {__file__}, and not in both: {sorted(differ)}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
