"""The code of an app: its files, how they are imported, and how they reach a host that does not have them."""

from __future__ import annotations

import atexit
import hashlib
import importlib
import importlib.util
import io
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from flsim.apps import ClientApp, ServerApp
from flsim.envelope import around_import, traceback_of
from flsim.errors import AppLoadError, ConfigError
from flsim.folder import HeldFolder

SHIPPED_LIMIT = 50 * 2**20
"""Bytes of an app's files that are taken to other hosts: code, not data sets."""

FILES_LIMIT = 1000
"""An app of more files has data among them; then only its Python files are its code."""


@dataclass(frozen=True, slots=True)
class Code:
    """The files of an app, as they were when it was found."""

    folder: str
    files: tuple[str, ...]
    """Relative to the folder, sorted."""
    digest: str
    """Of the names and contents; of the Python files alone where all are too large to be shipped."""

    @classmethod
    def of_folder(cls, folder: Path) -> Code:
        """All files below ``folder`` but hidden ones, caches and environments."""
        try:
            return cls._of(folder, sorted(str(p.relative_to(folder)) for p in _files(folder)))
        except OSError as e:
            raise ConfigError(f"the files of the app in {folder} cannot be read: {e}") from e

    @classmethod
    def of_file(cls, file: Path) -> Code:
        """One file, and the Python files beside it, which it may import."""
        return cls._of(file.parent, sorted(p.name for p in file.parent.glob("*.py") if p.is_file()))

    @classmethod
    def _of(cls, folder: Path, files: list[str]) -> Code:
        if len(files) > FILES_LIMIT:
            files = [f for f in files if f.endswith(".py")]
        return cls(str(folder), tuple(files), _digest(folder, files))

    def intact(self) -> bool:
        """Whether the folder is in reach and its files are what they were."""
        try:
            return _digest(Path(self.folder), self.files) == self.digest
        except OSError:
            return False

    def archive(self) -> bytes:
        """The files as a zip. Raises ConfigError where they are too large."""
        folder = Path(self.folder)
        sizes = {f: (folder / f).stat().st_size for f in self.files}
        if sum(sizes.values()) > SHIPPED_LIMIT:
            largest = sorted(sizes, key=lambda f: sizes[f], reverse=True)[:3]
            shown = ", ".join(f"{f} ({sizes[f] / 2**20:.0f} MiB)" for f in largest)
            raise ConfigError(
                f"the files of the app in {folder} are {sum(sizes.values()) / 2**20:.0f} MiB, and at most "
                f"{SHIPPED_LIMIT / 2**20:.0f} MiB are taken to other hosts. Keep data elsewhere; the largest: {shown}"
            )
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in self.files:
                archive.write(folder / file, file)
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an app object is: an attribute of a module of the app's code."""

    code: Code
    module: str
    attribute: str
    file: str = ""
    """The module's file in the code's folder, where the module is not to be found by its name."""
    adapter: Callable[[Any], Any] | None = None
    """What makes of the attribute an app that the engine can call, where it is another library's. Pickled by name, so
    it is a function or a class of a module that workers have, too."""

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"

    def here(self, archives: Mapping[str, bytes]) -> Reference:
        """The reference as this host has it: the folder itself where it is in reach, else unpacked.

        Args:
            archives: by digest; empty where all workers are on the driver's host.
        """
        if self.code.digest not in archives or self.code.intact():
            return self
        folder = _unpacked(self.code.digest, archives[self.code.digest])
        return replace(self, code=replace(self.code, folder=folder))


def file_reference(path: Path) -> Reference:
    """The module of an app that is one file, still without an attribute.

    The module has the file's name, where that is a name, and not that of a module of somebody else.
    """
    name = path.stem
    taken = name in sys.stdlib_module_names or (name in sys.modules and not _is_from(sys.modules[name], path))
    if taken or not name.isidentifier():
        name = "app_" + re.sub(r"\W", "_", name)
    return Reference(Code.of_file(path), name, "", path.name)


def import_reference(reference: Reference) -> Any:
    """The object that ``reference`` names. Raises AppLoadError with the app's own traceback."""
    value: Any = import_module(reference)
    for part in reference.attribute.split("."):
        if not hasattr(value, part):
            apps = [n for n, v in vars(value).items() if isinstance(v, (ServerApp, ClientApp))]
            text = f"; its apps are: {', '.join(apps)}" if apps else ""
            raise AppLoadError(f"{reference}: {reference.module} has no {part!r}{text}")
        value = getattr(value, part)
    return value if reference.adapter is None else reference.adapter(value)


class _Imported:
    """The code that this process imports from, and which modules were there before: those are not the app's."""

    turn = threading.RLock()
    code: Code | None = None
    before: frozenset[str] = frozenset()


def import_module(reference: Reference) -> ModuleType:
    """Import the module of ``reference`` from its folder. Raises AppLoadError with the app's own traceback."""
    with _Imported.turn, around_import():
        return _import(reference)


def _import(reference: Reference) -> ModuleType:
    code = reference.code
    if _Imported.code != code:
        _forget()
        _Imported.code = code
        _Imported.before = frozenset(sys.modules)
        sys.path.insert(0, code.folder)
        importlib.invalidate_caches()
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # nothing is written to the app's folder
    try:
        return _import_file(reference) if reference.file else importlib.import_module(reference.module)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as e:  # an import runs the app's code, which may raise anything, SystemExit included
        raise AppLoadError(f"{reference.module} cannot be imported from {code.folder}:\n{traceback_of(e)}") from e
    finally:
        sys.dont_write_bytecode = writes


def _import_file(reference: Reference) -> ModuleType:
    if (module := sys.modules.get(reference.module)) is not None:
        return module
    file = Path(reference.code.folder, reference.file)
    spec = importlib.util.spec_from_file_location(reference.module, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = sys.modules[reference.module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[reference.module]
        raise
    return module


def _forget() -> None:
    """Forget the modules that came from the app's folder so far, so that those of another app, or the edited ones
    of this app, can take their names."""
    if _Imported.code is None:
        return
    folder = _Imported.code.folder
    for name in set(sys.modules) - _Imported.before:
        if _is_from(sys.modules[name], Path(folder)):
            del sys.modules[name]
    while folder in sys.path:
        sys.path.remove(folder)


def _is_from(module: ModuleType, path: Path) -> bool:
    """Whether ``module`` is this file, or is from this folder; a package without an ``__init__`` has no file."""
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(place and Path(place).is_relative_to(path) for place in places)


def _digest(folder: Path, files: Iterable[str]) -> str:
    paths = [(f, folder / f) for f in files]
    if sum(p.stat().st_size for _, p in paths) > SHIPPED_LIMIT:
        paths = [(f, p) for f, p in paths if p.suffix == ".py"]
    digest = hashlib.sha256()
    for name, path in paths:
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in ("__pycache__", "node_modules"):
            continue
        if path.is_dir():
            if not path.is_symlink() and not (path / "pyvenv.cfg").exists():
                yield from _files(path)
        elif path.is_file():
            yield path


@lru_cache(maxsize=8)
def _unpacked(digest: str, archive: bytes) -> str:
    """A folder with the files of ``archive``, once per process, removed when the process ends."""
    folder = HeldFolder("flsim-app-")
    atexit.register(folder.remove)
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        files.extractall(folder.path / "app")
    return str(folder.path / "app")
