"""Builds networks from the operator's own Python code, which the configuration names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from service_models.errors import ArchitectureError
from service_models.files import printable
from service_models.spec import NetworkSpec

# The beginning of the names of modules that are files which entries name.
_OWN_NAME = "network_of_"
_INSTALLED = {"site-packages", "dist-packages"}

# The modules that code imported from its folders, by these.
_imported: dict[tuple[Path, ...], dict[str, ModuleType]] = {}


def build_own(spec: NetworkSpec) -> nn.Module:
    """Calls what `spec.architecture` names, "FILE.py:NAME" or "PACKAGE.MODULE:NAME", with the entry's arguments.

    The folders of the configuration and of FILE can be imported from while it runs. No other network sees what it
    imports from them, so that two may have files of one name.

    Raises:
        ArchitectureError: there is no such code, it fails, or returns no module.
    """
    place, _, name = spec.architecture.rpartition(":")
    shown = f"{spec.name}: python:{printable(_shown(place))}:{printable(name)}"
    folders = [Path(place).parent] if place.endswith(".py") else []
    if spec.folder is not None and spec.folder not in folders:
        folders.append(spec.folder)
    with _importing_from(tuple(folders)):
        try:
            module = _module_at(place)
        # Whatever the operator's code raises, its own words and line help best.
        except Exception as error:
            raise ArchitectureError(f"{shown}: cannot be imported: {_told(error, place)}") from error
        maker = getattr(module, name, None)
        if not callable(maker):
            known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise ArchitectureError(f"{shown}: there is no such class or function; it has {', '.join(known) or 'none'}")
        try:
            model = maker(**spec.arguments)
        except Exception as error:
            raise ArchitectureError(f"{shown}: fails: {_told(error, place)}") from error
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"{shown}: returns {type(model).__name__}, not a torch.nn.Module")
    return model


@contextmanager
def _importing_from(folders: tuple[Path, ...]) -> Iterator[None]:
    """Has folders searched for modules before all others; what was imported from other ones is forgotten."""
    for modules in _imported.values():
        for name in modules:
            sys.modules.pop(name, None)
    mine = _imported.setdefault(folders, {})
    sys.modules.update(mine)
    before = set(sys.modules)
    sys.path[:0] = map(str, folders)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if _lies_in(sys.modules[name], folders) and not name.startswith(_OWN_NAME):
                mine[name] = sys.modules[name]


def _lies_in(module: ModuleType, folders: tuple[Path, ...]) -> bool:
    """Whether a module is a file below one of these folders, and of no installed package there."""
    file = getattr(module, "__file__", None)
    path = Path(file or next(iter(getattr(module, "__path__", ())), ""))
    return not _INSTALLED & set(path.parts) and any(path.is_relative_to(folder) for folder in folders)


def _module_at(place: str) -> ModuleType:
    """A module of a file, under a name that no other module has, or of a package."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    name = f"{_OWN_NAME}{Path(place).stem}_{abs(hash(place)):x}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, place)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    # Before it runs: dataclasses look their module up.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _shown(place: str) -> str:
    return Path(place).name if place.endswith(".py") else place


def _told(error: Exception, place: str) -> str:
    """An error of the operator's code, with the last line of that code that led to it."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place]
    where = f" ({_shown(place)}, line {lines[-1].lineno})" if lines else ""
    return f"{type(error).__name__}: {printable(error, 500)}{where}"
