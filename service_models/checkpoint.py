"""Reads a file of parameters, and puts them into a network or says exactly why they do not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from service_models.errors import WeightsError

StateDict = dict[str, Tensor]

_NESTED_UNDER = ("state_dict", "model", "model_state_dict", "state_dict_ema")
# Left by DataParallel and by torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
# Heads that only serve training; the networks are built without them.
_TRAINING_HEADS = ("AuxLogits.", "aux1.", "aux2.")
# Files older than PyTorch 0.4 write DenseNet's "norm1" as "norm.1".
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_NAMED = 5


def read_checkpoint(path: Path) -> StateDict:
    """Reads the parameters of a checkpoint; no code in it is run.

    Args:
        path: a `.safetensors` file, or one that `torch.save` wrote: a state dict, bare or under one of the
            usual keys, with or without the prefix of DataParallel.

    Returns:
        Parameter names to tensors on the CPU.

    Raises:
        WeightsError: it cannot be read, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        try:
            return _unwrapped(safetensors.torch.load_file(path))
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise WeightsError(f"{path}: is no whole safetensors file: {error}") from error
    return _unwrapped(_state_dict_in(_unpickle(path), path))


def fit(model: nn.Module, state: StateDict) -> list[str]:
    """What keeps `state` from being the parameters of `model`; empty where nothing does.

    Old files lack the counters of batch norms, which evaluation does not read; that is no fault.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name}: file has {tuple(state[name].shape)}, network has {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = []
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            more = ", ..." if len(names) > _NAMED else ""
            faults.append(f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}")
    hint = _classes_hint(own, state)
    return [*faults, hint] if faults and hint else faults


def load_state(model: nn.Module, state: StateDict, origin: str) -> None:
    """Copies `state` into `model`.

    Args:
        model: the network.
        state: its parameters by name.
        origin: where they come from, for messages.

    Raises:
        WeightsError: names or shapes differ; the message names the first of each and counts the rest.
    """
    faults = fit(model, state)
    if faults:
        raise WeightsError(f"{origin}: does not fit the network: {'; '.join(faults)}")
    model.load_state_dict({**model.state_dict(), **state})


def _classes_hint(own: Mapping[str, Tensor], state: StateDict) -> str:
    """Names the setting that helps where only the classifier differs, in its number of classes."""
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    rows = {tuple(state[name].shape)[:1] for name in differing}
    same_width = all(state[name].shape[1:] == own[name].shape[1:] for name in differing)
    if len(rows) == 1 and same_width and len(differing) <= 4 and rows != {()}:
        return f"set classes = {rows.pop()[0]}"
    return ""


def _unpickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    # Damaged bytes can make the unpickler raise nearly anything.
    except Exception as error:
        text = str(error)
        if "weights_only" in text.lower() or "Unsupported" in text:
            reason = "it holds more than tensors, and code in it is never run; save `model.state_dict()` alone"
        else:
            reason = (
                f"it is damaged or no checkpoint ({type(error).__name__}: {text.strip().splitlines()[0]})"
                if text.strip()
                else f"it is damaged or no checkpoint ({type(error).__name__})"
            )
        raise WeightsError(f"{path}: cannot be read: {reason}") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _state_dict_in(content: object, path: Path) -> StateDict:
    found = content
    if isinstance(content, Mapping) and not _is_state_dict(content):
        nested = [content[key] for key in _NESTED_UNDER if key in content]
        found = next((value for value in nested if _is_state_dict(value)), None)
    if isinstance(found, Mapping) and _is_state_dict(found):
        return dict(found)
    keys = ", ".join(map(repr, list(content)[:_NAMED])) if isinstance(content, Mapping) else ""
    kind = f"a mapping with the keys {keys}" if keys else f"an object of type {type(content).__name__}"
    raise WeightsError(
        f"{path}: holds no state dict but {kind}; it takes parameters by name, bare or under one of "
        f"{', '.join(_NESTED_UNDER)}"
    )


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _unwrapped(state: StateDict) -> StateDict:
    """Takes the wrappers' prefixes off, drops heads that only serve training, and renames old names."""
    while state and (wrapper := next((w for w in _WRAPPERS if all(k.startswith(w) for k in state)), None)):
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return {
        _OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items() if not name.startswith(_TRAINING_HEADS)
    }
