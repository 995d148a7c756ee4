"""The checks of this repository. `nox` runs those of CI; `nox --list` shows all."""

import os
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
# Containers often set it. Each of the many processes of the tests would compile all that it imports, for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")
BACKENDS = ["loky", "dask", "ray"]
PLUGINS = ["bench", "mlflow", "report", "tensorboard"]
FLOWER = "plugins/flower"  # with sessions of its own, since flwr holds other libraries back
POOL = "docs/examples/flsim-pool"
SOURCES = {  # each distribution's folder, and what is typed in it
    ".": [
        "core/flsim",
        "backends/serial/flsim_serial",
        "plugins/progress/flsim_progress",
        "plugins/record/flsim_record",
        "tests",
    ],
    **{f"backends/{b}": [f"backends/{b}/flsim_{b}", f"backends/{b}/tests"] for b in BACKENDS},
    **{f"plugins/{p}": [f"plugins/{p}/flsim_{p}", f"plugins/{p}/tests"] for p in PLUGINS},
    FLOWER: [f"{FLOWER}/flsim_flower", f"{FLOWER}/tests"],
    POOL: [f"{POOL}/flsim_pool", f"{POOL}/tests"],
}


def editable(*folders: str) -> list[str]:
    """What pip takes to install these distributions as they are here."""
    return [argument for folder in folders for argument in ("-e", folder)]


def tools(*without: str) -> list[str]:
    """The requirements of the group `dev`, less our own distributions, and less those named."""
    requirements = nox.project.dependency_groups(PYPROJECT, "dev")
    return [r for r in requirements if not r.startswith(("flsim-", *without))]


def pages(session: nox.Session) -> None:
    """Install what the pages of docs/ are made with: all backends, since they show them."""
    session.install(*editable(".", *(f"backends/{b}" for b in BACKENDS)), *tools())
    session.install(*nox.project.dependency_groups(PYPROJECT, "docs"))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format."""
    session.install(*(r for r in tools() if r.startswith("ruff")))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, of sources and tests."""
    session.install(*editable(*SOURCES), *tools())
    folders = [folder for folders in SOURCES.values() for folder in folders]
    session.run("mypy", "docs/generate.py", *(f for f in folders if not f.endswith("tests")))
    for folder in (f for f in folders if f.endswith("tests")):
        with session.chdir(folder):  # so that test files are modules of the names by which they import each other
            session.run("mypy", "--config-file", f"{ROOT}/pyproject.toml", "--cache-dir", f"{ROOT}/.mypy_cache", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """The core's tests, with the backends serial and loky, and a stranger's."""
    session.install(*editable(".[parquet]", "backends/loky", POOL), "pandas>=2", *tools())
    # The session `docs` runs the tests of the pages, which show all backends.
    own = ("tests", "--ignore=tests/test_docs.py", "backends/loky/tests")
    session.run("pytest", *(session.posargs or own))


@nox.session
def alone(session: nox.Session) -> None:
    """The core's tests in an environment without any optional backend."""
    session.install("-e", ".", *tools("scikit-learn"))
    # What the other files are about is the same beside other backends, and the session `tests` runs them.
    differ = ("cli", "hooks", "options", "plugins")
    session.run("pytest", *(session.posargs or (f"tests/test_{name}.py" for name in differ)))


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Known bugs, planted one by one: a test must go red for each. `nox -s mutants -- ttl` hunts those that say so."""
    session.install(*editable(".", "backends/loky"), *tools("scikit-learn"))
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session
@nox.parametrize("backend", ["dask", "ray"])
def backends(session: nox.Session, backend: str) -> None:
    """The tests of a backend of clusters, in an environment of its own."""
    session.install(*editable(".", f"backends/{backend}"), *tools())
    session.run("pytest", *(session.posargs or (f"backends/{backend}/tests",)))


@nox.session
def docs(session: nox.Session) -> None:
    """The pages: what they say is tested, and they are built into `dist/docs`. Warnings are errors."""
    pages(session)
    session.run("pytest", "tests/test_docs.py")
    session.run("sphinx-build", "-W", "--keep-going", "--fresh-env", "-b", "html", "docs", "dist/docs")


@nox.session(default=False)
def regenerate(session: nox.Session) -> None:
    """Write anew what the pages of docs/ take from the code."""
    pages(session)
    with session.chdir("docs"):
        session.run("cog", "-r", "-P", "-I", ".", *sorted(p.name for p in Path().glob("*.md")))


@nox.session
def plugins(session: nox.Session) -> None:
    """The tests of the plugins that are distributions of their own."""
    own = [f"plugins/{p}" + "[png]" * (p in ("bench", "report")) for p in PLUGINS]
    session.install(*editable(".", "backends/loky", *own, POOL), *tools())
    session.install(*nox.project.dependency_groups(PYPROJECT, "plugins"))
    session.run("pytest", *(session.posargs or (f"plugins/{p}/tests" for p in PLUGINS)))


def with_flower(session: nox.Session, *flwr: str) -> None:
    """Install all backends, what runs Flower's apps on them, and flwr as these requirements have it."""
    session.install(*editable(".", *(f"backends/{b}" for b in BACKENDS), FLOWER), *flwr, *tools("scikit-learn", "ipyk"))


@nox.session(default=False)
def flower(session: nox.Session) -> None:
    """Flower apps on serial and loky, with the newest flwr."""
    with_flower(session, "flwr")
    session.run("pytest", *(session.posargs or (f"{FLOWER}/tests", "-k", "not dask and not ray and not own_engine")))


@nox.session(default=False)
@nox.parametrize("flwr", ["==1.24.0", ""], ids=["oldest", "newest"])
def flower_backends(session: nox.Session, flwr: str) -> None:
    """Flower apps on each backend, with the oldest flwr that is supported and with the newest."""
    with_flower(session, f"flwr{flwr}")
    some = (f"{FLOWER}/tests/test_apps.py", "-k", "bit_by_bit") if flwr else (f"{FLOWER}/tests",)
    session.run("pytest", *(session.posargs or some))


@nox.session(default=False)
def flower_engine(session: nox.Session) -> None:
    """The same Flower apps by Flower's own engine and by flsim: the same results, and how long a message takes."""
    with_flower(session, "flwr[simulation]")
    session.run("pytest", f"{FLOWER}/tests/test_apps.py", "-k", "own_engine")
    session.run("python", f"{FLOWER}/compare/compare.py", *session.posargs)


@nox.session(default=False)
def flower_deployment(session: nox.Session) -> None:
    """The same Flower app in a deployment of Flower's, on this host, and on flsim: the same metrics."""
    with_flower(session, "flwr")
    session.run("python", f"{FLOWER}/compare/deployment.py", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build all wheels, install them into a fresh environment away from here, import and run."""
    with tempfile.TemporaryDirectory() as folder:
        python = fresh(session, folder, *SOURCES)
        names = ["flsim", "flsim_serial", *(f"flsim_{p}" for p in [*BACKENDS, *PLUGINS, "flower"])]
        with session.chdir(folder):
            session.run(python, "-c", f"import {', '.join(names)}; flsim.run", external=True)
            session.run("env/bin/flsim", "backends", external=True)
            for backend in ("serial", "loky"):
                noop = ("run", f"{ROOT}/docs/examples/noop", "--set", "rounds=3", "--backend", backend)
                session.run("env/bin/flsim", *noop, external=True)
            session.run("env/bin/flsim", "new", "first-app", external=True)
            session.run("env/bin/flsim", "run", "first-app", "--set", "rounds=3", external=True)
            page = ("bench", "compute", "--scale", "tiny", "--backend", "serial", "--html", "bench.html")
            session.run("env/bin/flsim", *page, external=True)


@nox.session
def stranger(session: nox.Session) -> None:
    """The example of a third party's backend, beside the engine alone: listed, checked, used."""
    with tempfile.TemporaryDirectory() as folder:
        fresh(session, folder, ".", POOL)
        with session.chdir(folder):
            session.run("env/bin/flsim", "backends", external=True)
            checks = (
                "each_lease_comes_back_once",
                "a_death_costs_no_other_lease",
                "seeds_are_of_the_node_and_its_count",
            )
            session.run("env/bin/flsim", "check", "pool", *(f"--only={name}" for name in checks), external=True)
            noop = ("run", f"{ROOT}/docs/examples/noop", "--set", "rounds=3", "--backend", "pool")
            session.run("env/bin/flsim", *noop, external=True)


def fresh(session: nox.Session, folder: str, *projects: str) -> str:
    """Build the wheels of `projects` into `folder` and install them there into an environment. Returns its Python."""
    session.install("build[uv]")
    for project in projects:
        session.run("python", "-m", "build", "--installer", "uv", "--wheel", "--outdir", folder, project, silent=True)
    session.run("python", "-m", "venv", f"{folder}/env")
    python = f"{folder}/env/bin/python"
    wheels = sorted(str(p) for p in Path(folder).glob("*.whl"))
    session.run("uv", "pip", "install", "--quiet", "--python", python, *wheels)
    return python


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """The core's tests with the lowest versions that the packages allow."""
    session.install("--resolution=lowest-direct", *editable(".", "backends/loky", POOL), *tools())
    session.run("pytest", "tests", "backends/loky/tests", *session.posargs)


@nox.session(default=False)
def chaos(session: nox.Session) -> None:
    """Workers are killed, messages end theirs or hang: `nox -s chaos -- --backend loky --seconds 20`."""
    session.install(*editable(".", *(f"backends/{b}" for b in BACKENDS)))
    session.run("python", "tests/chaos.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Backends compared: `nox -s bench -- noop --scale tiny` gives its arguments to `flsim bench`."""
    session.install(*editable(".", *(f"backends/{b}" for b in BACKENDS), "plugins/bench[png]"))
    session.run("flsim", "bench", *session.posargs)
