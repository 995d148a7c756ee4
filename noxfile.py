"""The checks of this repository. `nox` runs those of CI; `nox --list` shows all."""

import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")
WORKSPACE = ["-e", ".", "-e", "backends/loky"]
PACKAGES = ["core/flsim", "backends/serial/flsim_serial", "backends/loky/flsim_loky", "plugins/progress/flsim_progress"]


def dev(session: nox.Session, *, without: tuple[str, ...] = ()) -> list[str]:
    """The requirements of the group `dev`, less those that start with one of `without`."""
    return [r for r in nox.project.dependency_groups(PYPROJECT, "dev") if not r.startswith(without or ("\0",))]


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format."""
    session.install(*(r for r in dev(session) if r.startswith("ruff")))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, of sources and tests."""
    session.install(*WORKSPACE, *dev(session))
    session.run("mypy", *PACKAGES)
    for folder in ("tests", "backends/loky/tests"):
        with session.chdir(folder):  # so that test files are modules of the names by which they import each other
            session.run("mypy", "--config-file", f"{ROOT}/pyproject.toml", ".")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, with every backend of the workspace."""
    session.install(*WORKSPACE, *dev(session))
    session.run("pytest", *session.posargs)


@nox.session
def alone(session: nox.Session) -> None:
    """The core's tests in an environment without any optional backend."""
    session.install("-e", ".", *dev(session, without=("flsim-", "scikit-learn")))
    session.run("pytest", "tests", *session.posargs)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build all wheels, install them into a fresh environment away from here, import and run."""
    session.install("build[uv]")
    with tempfile.TemporaryDirectory() as folder:
        for project in (".", "backends/loky"):
            session.run("python", "-m", "build", "--installer", "uv", "--wheel", "--outdir", folder, project, silent=True)
        files = sorted(Path(folder).glob("*.whl"))
        session.run("python", "-m", "venv", f"{folder}/env")
        python = f"{folder}/env/bin/python"
        session.run(python, "-m", "pip", "install", "--quiet", *map(str, files), external=True)
        examples = Path("docs/examples").resolve()
        with session.chdir(folder):
            session.run(python, "-c", "import flsim, flsim_serial, flsim_loky; flsim.run", external=True)
            session.run("env/bin/flsim", "backends", external=True)
            for backend in ("serial", "loky"):
                noop = ("run", f"{examples}/noop", "--set", "rounds=3", "--backend", backend)
                session.run("env/bin/flsim", *noop, external=True)


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """The tests with the lowest versions that the packages allow."""
    session.install("--resolution=lowest-direct", *WORKSPACE, *dev(session))
    session.run("pytest", *session.posargs)
