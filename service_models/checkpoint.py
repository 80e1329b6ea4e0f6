"""Reads files and folders of parameters without running code that may lie in them."""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from service_models.errors import WeightsError
from service_models.files import is_file, is_folder, printable, read_bounded

_log = logging.getLogger(__name__)

StateDict = dict[str, Tensor]

# Averaged parameters come first, as timm takes them.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_NESTED_UNDER = (*_AVERAGED, "state_dict", "model", "model_state_dict", "net")
_FORBIDDEN = re.compile(r"GLOBAL (\S+) was not an allowed global")
_MOST_NAMED = 5
# Several times what the largest networks of either library have.
_MOST_TENSORS = 20_000
_MOST_HEADER_BYTES = 16 * 2**20
INDEX_SUFFIX = ".index.json"
_WHOLE = ("model.safetensors", "pytorch_model.bin")


def read_checkpoint(path: Path, key: str | None = None) -> StateDict:
    """Reads the parameters of a checkpoint; no code in it is run.

    Args:
        path: a `.safetensors` file; one that `torch.save` wrote, which holds a state dict, bare or under one of the
            usual keys; or a folder of several such files with their index.
        key: where the state dict lies in the file, dotted where it lies deeper; None for the usual keys, of which
            those of averaged parameters come first.

    Returns:
        Parameter names to tensors on the CPU, as the file names them.

    Raises:
        WeightsError: it cannot be read, or holds no state dict.
    """
    if is_folder(path):
        return _read_folder(path, key)
    if not is_file(path):
        raise WeightsError(f"{printable(path)}: there is no such file")
    if path.suffix == ".safetensors":
        if key is not None:
            raise WeightsError(f"{printable(path)}: weights_key: a safetensors file has no keys; leave it out")
        return _read_safetensors(path)
    state = _state_dict_in(_unpickle(path), path, key)
    _check_count(path, len(state))
    return state


def _read_folder(path: Path, key: str | None) -> StateDict:
    """Reads several files by their index, or the only one.

    Raises:
        WeightsError: there is none, or it names what is not there.
    """
    for name in _WHOLE:
        if is_file(path / name):
            return read_checkpoint(path / name, key)
        if is_file(path / f"{name}{INDEX_SUFFIX}"):
            return _read_parts(path, path / f"{name}{INDEX_SUFFIX}", key)
    indices = sorted(file for file in path.iterdir() if file.name.endswith(INDEX_SUFFIX))
    if len(indices) > 1:
        raise WeightsError(
            f"{printable(path)}: has several indices of parameters: {first_of([i.name for i in indices])}"
        )
    if not indices:
        expected = f"an index (model.safetensors{INDEX_SUFFIX}) or {' or '.join(_WHOLE)}"
        raise WeightsError(f"{printable(path)}: holds no parameters; a folder takes {expected}")
    return _read_parts(path, indices[0], key)


def _read_parts(path: Path, index: Path, key: str | None) -> StateDict:
    """The parameters in the files of a folder that an index lists."""
    places = _places(index)
    names = files_of_index(index)
    state: StateDict = {}
    for name in names:
        state |= read_checkpoint(path / name, key)
        _check_count(path, len(state))
    if missing := [name for name in places if name not in state]:
        raise WeightsError(
            f"{printable(path)}: its files lack {len(missing)} parameters of the index: {first_of(missing)}"
        )
    return state


def files_of_index(index: Path) -> list[str]:
    """The names of the files that an index of parameters lists, which lie beside it.

    Raises:
        WeightsError: it is no such index.
    """
    return sorted(set(_places(index).values()))


def _places(index: Path) -> dict[str, str]:
    """Names of parameters to names of files."""
    try:
        places = dict(json.loads(read_bounded(index, _MOST_HEADER_BYTES))["weight_map"])
        are_beside = all(isinstance(name, str) and Path(name).name == name != ".." for name in places.values())
    except OSError as error:
        raise WeightsError(f"{printable(index)}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{printable(index)}: is not an index of parameters: it lacks a `weight_map`") from error
    if not are_beside:
        raise WeightsError(f"{printable(index)}: names files outside of its folder")
    return places


def _read_safetensors(path: Path) -> StateDict:
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > _MOST_HEADER_BYTES:
            raise WeightsError(
                f"{printable(path)}: is not a complete safetensors file: its header says {header_bytes:,} bytes"
            )
        with safe_open(path, framework="pt") as opened:
            names = opened.keys()
            _check_count(path, len(names))
            return {name: opened.get_tensor(name) for name in names}
    # Of types that PyTorch does not know, a KeyError.
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{printable(path)}: is not a complete safetensors file: {printable(error)}") from error


def _check_count(path: Path, count: int) -> None:
    if count > _MOST_TENSORS:
        raise WeightsError(f"{printable(path)}: holds {count:,} tensors, and no network more than {_MOST_TENSORS:,}")


def first_of(names: list[str]) -> str:
    """The first of many names, as messages show them."""
    return ", ".join(map(printable, names[:_MOST_NAMED])) + (", ..." if len(names) > _MOST_NAMED else "")


def _empty(*_arguments: object) -> dict[object, object]:
    """Stands for the dictionaries that PyTorch's reader does not fill."""
    return {}


@cache
def _harmless() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Types that trainers put beside the parameters, and that do nothing when they are made."""
    numpy_scalar: Any = np.float64().__reduce__()[0]
    return [
        argparse.Namespace,
        (_empty, "collections.defaultdict"),
        dict,
        int,
        float,
        list,
        set,
        (pathlib.PurePosixPath, "pathlib.PosixPath"),
        (pathlib.PurePosixPath, "pathlib._local.PosixPath"),
        (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
        (pathlib.PureWindowsPath, "pathlib._local.WindowsPath"),
        (dict, "lightning.fabric.utilities.data.AttributeDict"),
        (dict, "lightning_fabric.utilities.data.AttributeDict"),
        (dict, "pytorch_lightning.utilities.parsing.AttributeDict"),
        np.dtype,
        *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
        (numpy_scalar, "numpy.core.multiarray.scalar"),
        (numpy_scalar, "numpy._core.multiarray.scalar"),
    ]


def _unpickle(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    # Damaged bytes can make the unpickler raise nearly anything.
    except Exception as error:
        text = printable(str(error).strip().partition("\n")[0])
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            found = _FORBIDDEN.search(str(error))
            held = f"an object of type {printable(found[1])}" if found else "more than tensors"
            reason = f"it holds {held}, and code in it is never run; save `model.state_dict()` alone"
        else:
            reason = f"it is damaged or not a checkpoint ({type(error).__name__}{': ' if text else ''}{text})"
        raise WeightsError(f"{printable(path)}: cannot be read: {reason}") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _state_dict_in(content: object, path: Path, key: str | None) -> StateDict:
    entries = content if isinstance(content, Mapping) else {}
    if key is not None:
        found = _at(entries, key)
        if not _is_state_dict(found):
            raise WeightsError(
                f"{printable(path)}: weights_key: '{key}' is no state dict in it; it is {_kind(content)}"
            )
        return dict(found)
    if _is_state_dict(content):
        return dict(content)
    usual = [name for name in _NESTED_UNDER if _is_state_dict(entries.get(name))]
    if not usual:
        raise WeightsError(
            f"{printable(path)}: holds no state dict but {_kind(content)}; it takes parameters by name, bare or under "
            f"one of {', '.join(_NESTED_UNDER)}; weights_key names another place"
        )
    if len(usual) > 1:
        _log.info(
            "%s: takes '%s', not '%s'; weights_key says otherwise", printable(path), usual[0], "', '".join(usual[1:])
        )
    return dict(entries[usual[0]])


def _at(entries: Mapping[str, object], key: str) -> object:
    """What lies under a key, or under a dotted one."""
    if key in entries:
        return entries[key]
    first, _, rest = key.partition(".")
    inner = entries.get(first)
    return _at(inner, rest) if rest and isinstance(inner, Mapping) else None


def _kind(content: object) -> str:
    keys = (
        ", ".join(f"'{printable(key)}'" for key in list(content)[:_MOST_NAMED]) if isinstance(content, Mapping) else ""
    )
    return f"a mapping with the keys {keys}" if keys else f"an object of type {type(content).__name__}"


def _is_state_dict(content: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )
