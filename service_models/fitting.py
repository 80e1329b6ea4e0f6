"""Puts parameters into a network, or says exactly why they do not fit and which setting would help."""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterator, Mapping

from torch import Tensor, nn

from service_models.checkpoint import StateDict, first_of
from service_models.errors import WeightsError
from service_models.files import printable

_log = logging.getLogger(__name__)

# What averaging counts beside the parameters.
_COUNTERS = {"n_averaged", "steps"}
# Heads that only serve training; the networks are built without them.
_TRAINING_HEADS = ("AuxLogits.", "aux1.", "aux2.")
# Files older than PyTorch 0.4 write DenseNet's "norm1" as "norm.1".
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_CLASSES_HINT = "set classes = {}"
# Beginnings of names that a message names.
_MOST_RENAMED = 5


def selected(state: StateDict, prefix: str | None, renamed: Mapping[str, str], origin: str) -> StateDict:
    """The parameters that an entry of the configuration means.

    Args:
        state: the parameters as the file names them.
        prefix: is taken off; parameters without it are left out. None takes all.
        renamed: beginnings of names, without the prefix, to what stands there instead; the longest counts.
        origin: where they come from, for messages.

    Raises:
        WeightsError: no name begins so, or two parameters get one name.
    """
    if prefix is not None:
        kept = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if not kept:
            raise WeightsError(f"{origin}: weights_prefix: no name begins with '{printable(prefix)}'; {_named(state)}")
        if without := len(state) - len(kept):
            _log.info("%s: left out %d parameters without '%s'", origin, without, printable(prefix))
        state = kept
    for old in renamed:
        if not any(name.startswith(old) for name in state):
            raise WeightsError(f"{origin}: weights_rename: no name begins with '{printable(old)}'; {_named(state)}")
    beginnings = sorted(renamed, key=len, reverse=True)
    result: StateDict = {}
    for name, value in state.items():
        matching = next((old for old in beginnings if name.startswith(old)), None)
        new = name if matching is None else renamed[matching] + name.removeprefix(matching)
        if new in result:
            raise WeightsError(f"{origin}: weights_rename: two parameters would be '{printable(new)}'")
        result[new] = value
    return result


def readings(model: nn.Module, state: StateDict) -> Iterator[tuple[str, StateDict]]:
    """What the parameters may be named: as they are, and without beginnings that all of them share.

    Args:
        model: the network; names that it has are never left out.
        state: the parameters as the file names them.

    Yields:
        A beginning, such as "module." or "module.model.", and the parameters without it, less what only serves
        training.
    """
    own, prefix = model.state_dict().keys(), ""
    while True:
        yield prefix, _for_evaluation(state, own)
        counted = {name: value for name, value in state.items() if name not in _COUNTERS}
        start = next(iter(counted), "").partition(".")[0] + "."
        if not all(name.startswith(start) and name != start for name in counted) or not counted:
            return
        state, prefix = {name.removeprefix(start): value for name, value in counted.items()}, prefix + start


def _for_evaluation(state: StateDict, own: Container[str]) -> StateDict:
    """Leaves out counters and heads that only serve training, and renames old names."""
    return {
        _OLD_DENSENET.sub(r"\1\2", name): value
        for name, value in state.items()
        if name in own or not (name in _COUNTERS or name.startswith(_TRAINING_HEADS))
    }


def mismatches(model: nn.Module, state: StateDict, classes_hint: str = _CLASSES_HINT) -> list[str]:
    """What keeps `state` from being the parameters of `model`; empty where nothing does.

    Old files lack the counters of batch norms, which evaluation does not read; that is no fault.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{printable(name)}: file has {tuple(state[name].shape)}, network has {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = [
        f"{len(names)} {what}: {first_of(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    hint = _classes_hint(own, state, classes_hint) or _rename_hint(own, state, missing, unexpected)
    return [*faults, hint] if faults and hint else faults


def load_state(model: nn.Module, state: StateDict, origin: str, classes_hint: str = _CLASSES_HINT) -> None:
    """Copies `state` into `model`.

    Args:
        model: the network.
        state: its parameters by name.
        origin: where they come from, for messages.
        classes_hint: what sets the number of classes, with {} for it.

    Raises:
        WeightsError: names or shapes differ; the message names the first of each and counts the rest.
    """
    faults = mismatches(model, state, classes_hint)
    if faults:
        raise WeightsError(f"{origin}: does not fit the network: {'; '.join(faults)}")
    try:
        model.load_state_dict({**model.state_dict(), **state})
    except RuntimeError as error:  # tensors that are sparse, say
        raise WeightsError(f"{origin}: does not fit the network: {printable(error, 500)}") from error


def _classes_hint(own: Mapping[str, Tensor], state: StateDict, hint: str) -> str:
    """Names the setting that helps where only the classifier differs, in its number of classes."""
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    rows = {tuple(state[name].shape)[:1] for name in differing}
    same_width = all(state[name].shape[1:] == own[name].shape[1:] for name in differing)
    if len(rows) == 1 and same_width and len(differing) <= 4 and rows != {()}:
        return hint.format(rows.pop()[0])
    return ""


def _rename_hint(own: Mapping[str, Tensor], state: StateDict, missing: list[str], unexpected: list[str]) -> str:
    """Names the setting that helps where a whole part of the network has another name in the file."""
    begun = [name.partition(".")[0] + "." for name in unexpected]
    for prefix in dict.fromkeys(begun):
        inner = {name.removeprefix(prefix) for name in unexpected if name.startswith(prefix)}
        if inner.issuperset(missing) and missing:
            return f'set weights_prefix = "{printable(prefix)}"'
    pairs: dict[str, str] = {}
    for name in missing:
        place, _, last = name.rpartition(".")
        like = [
            other for other in unexpected if other.rpartition(".")[2] == last and state[other].shape == own[name].shape
        ]
        if len(like) != 1 or pairs.setdefault(f"{like[0].rpartition('.')[0]}.", f"{place}.") != f"{place}.":
            return ""
    if not 0 < len(pairs) <= _MOST_RENAMED:
        return ""
    renamed = ", ".join(f'"{printable(old)}" = "{printable(new)}"' for old, new in pairs.items())
    return f"set weights_rename = {{ {renamed} }}"


def _named(state: StateDict) -> str:
    return f"the first of {len(state)} names: {first_of(list(state))}"
