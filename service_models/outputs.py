"""What a network returns, turned into a row of logits for each picture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from service_models.errors import ArchitectureError, ConfigError
from service_models.files import printable
from service_models.scores import SIGMOID
from service_models.spec import NetworkSpec

_log = logging.getLogger(__name__)

# Relative to the largest logit: two runs of a deep network differ by rounding.
_TOLERANCE = 1e-3
# How far a sum of probabilities may be from 1: half precision rounds so.
_SUM_TOLERANCE = 2e-3
# How far a probability or its logarithm may be beyond its range, by rounding.
_RANGE_TOLERANCE = 1e-6
_MOST_NAMED = 5


def return_logits(model: nn.Module, spec: NetworkSpec) -> Callable[[Tensor], Tensor]:
    """Has a network return its logits alone, in place, where `spec` says what it returns; module paths stay.

    Returns:
        What the network returns as it is, for pictures; of several outputs the one that `spec` names.
    """
    path, holds = spec.output, spec.output_is or "logits"
    own_forward = model.forward

    def part_of(output: object) -> Tensor:
        part = _part_of(output, path, spec.name) if path is not None else output
        if path is None and not isinstance(part, fx.Proxy):
            return check_tensor(part, spec.name)
        if not isinstance(part, Tensor | fx.Proxy):  # a proxy stands for a tensor while the network is traced
            raise ConfigError(f"{spec.name}: output: '{path}' is no tensor but {_described(part)}")
        return cast(Tensor, part)

    def as_it_is(pictures: Tensor) -> Tensor:
        return part_of(own_forward(pictures))

    def to_logits(output: object) -> Tensor:
        found = part_of(output)
        if holds == "logits" or (holds == "log-probabilities" and spec.scores is not SIGMOID):
            return found
        limits = torch.finfo(next(model.parameters()).dtype)
        if holds == "log-probabilities":
            return found - _log1mexp(found, limits.eps)
        # What is rounded to either end stays finite.
        probabilities = found.clamp(limits.tiny, 1 - limits.eps)
        log = probabilities.log()
        return log - (-probabilities).log1p() if spec.scores is SIGMOID else log

    if path is not None or holds != "logits":
        _convert(model, to_logits)
    if holds != "logits":
        _log.warning("%s: its %s are turned into logits; those next to 0 and 1 are rounded", spec.name, holds)
    return as_it_is


def check_tensor(output: object, name: str) -> Tensor:
    """The output itself.

    Raises:
        ConfigError: it is no tensor; the message says how to name the one in it.
    """
    if isinstance(output, Tensor):
        return output
    raise ConfigError(f"{name}: output: forward returns {_described(output)}; state which of it are the logits")


def check_outputs(rows: Tensor, spec: NetworkSpec) -> None:
    """Refuses outputs that are not what the entry says they are: logits, or what `output_is` names.

    Args:
        rows: as the network returns them, of several pictures, (pictures, outputs).
        spec: of the network.

    Raises:
        ConfigError: they are something else; the message names the key to state.
    """
    if spec.output_is in (None, "logits"):
        if spec.output_is is None:
            _refuse_probabilities(rows, spec)
        return
    low, high = float(rows.min()), float(rows.max())
    if spec.output_is == "probabilities":
        limits, fits = "0 and 1", low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE
    else:
        limits, fits = "minus infinity and 0", high <= _RANGE_TOLERANCE
    if not fits:
        raise ConfigError(
            f"{spec.name}: output_is: {spec.output_is} lie between {limits}, and these between {low:.4g} and "
            f'{high:.4g}; if they are logits, state output_is = "logits"'
        )
    probabilities = rows if spec.output_is == "probabilities" else rows.exp()
    if spec.scores is not SIGMOID and not _sums_to_one(probabilities):
        sums = probabilities.double().sum(dim=1)
        raise ConfigError(
            f"{spec.name}: output_is: the probabilities of a softmax sum to 1, and these to {float(sums.min()):.4g} to "
            f'{float(sums.max()):.4g}; if they are those of labels each for itself, state scores = "sigmoid"'
        )


def _refuse_probabilities(rows: Tensor, spec: NetworkSpec) -> None:
    more = ""
    if rows.shape[1] > 1 and bool((rows >= 0).all()) and _sums_to_one(rows):
        found, key = "each row sums to 1, so they are probabilities already", "probabilities"
    elif rows.shape[1] > 1 and _sums_to_one(rows.exp()):
        found, key = "the exponentials of each row sum to 1, so they are log-probabilities", "log-probabilities"
    elif bool(((rows >= 0) & (rows <= 1)).all()):
        found, key = "all lie within 0 and 1, so they seem to be probabilities already", "probabilities"
        more = "" if spec.scores is SIGMOID else ' and scores = "sigmoid"'
    else:
        return
    raise ConfigError(
        f"{spec.name}: output_is: {found}, for {len(rows)} pictures; "
        f'state output_is = "{key}"{more}, or output_is = "logits" if they are that all the same'
    )


def _sums_to_one(rows: Tensor) -> bool:
    return bool(((rows.double().sum(dim=1) - 1).abs() <= _SUM_TOLERANCE).all())


def _part_of(output: object, path: str, name: str) -> object:
    """What lies at a dotted path of keys, attributes and indices."""
    found: Any = output
    for part in path.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, Sequence) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        elif not part.isdecimal() and hasattr(found, part):
            found = getattr(found, part)
        else:
            raise ConfigError(f"{name}: output: there is no '{path}': forward returns {_described(output)}")
    return found


def _described(output: object) -> str:
    if isinstance(output, Mapping):
        keys = ", ".join(f"'{printable(key)}'" for key in list(output)[:_MOST_NAMED])
        return f"a mapping with the keys {keys}"
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return f"a tuple with the fields {', '.join(output._fields[:_MOST_NAMED])}"
    if isinstance(output, Sequence) and not isinstance(output, str):
        return f"a {type(output).__name__} of {len(output)}"
    return f"an object of type {type(output).__name__}"


def _log1mexp(log: Tensor, eps: float) -> Tensor:
    """ln(1 - e^x) for x < 0, exact near both ends (Maechler, "Accurately computing log(1 - exp(-|a|))", 2012)."""
    log = log.clamp(max=-eps)
    near = log > -0.6931471805599453
    # Each branch gets arguments at which it and its derivative are finite.
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, log, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, log))),
    )


def _convert(model: nn.Module, change: Callable[[Any], Tensor]) -> None:
    """Has a network return something else, in place: a class in front of its own."""
    kind = type(model)
    # Code may have given this object a forward of its own, which would hide that of the class.
    own = vars(model).pop("forward", None)

    def forward(self: nn.Module, images: Tensor) -> Tensor:
        return change(own(images) if own is not None else kind.forward(self, images))

    try:
        model.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    except TypeError as error:
        raise ArchitectureError(f"{kind.__name__} cannot be given another forward: {printable(error)}") from error


def as_two_labels(model: nn.Module, pictures: Tensor) -> None:
    """Makes of a network with one logit z one of two labels with the logits (-z, z), in place.

    Where a linear layer makes the logit, it gets the rows (-w, w) and the biases (-b, b), so that whatever reads the
    classifier of other networks reads this one. Where that does not work, as in a network that gives its output a
    shape for one logit, the output is doubled. Module paths stay as they are.

    Args:
        model: frozen, in eval mode; returns (batch, 1) or (batch,).
        pictures: normalised, to try it on.
    """
    with torch.no_grad():
        logit = model(pictures).reshape(-1, 1)
        wanted = torch.cat((-logit, logit), dim=1)
        for module in _made_by(model, pictures, logit):
            _double(module)
            if all(_agree(model, pictures[:count], wanted[:count]) for count in (len(pictures), 1)):
                return
            _halve(module)
    _convert(model, lambda output: torch.cat((-output.reshape(-1, 1), output.reshape(-1, 1)), dim=1))


def _agree(model: nn.Module, pictures: Tensor, wanted: Tensor) -> bool:
    try:
        found = model(pictures)
    # Whatever a network does that was made for one logit.
    except Exception:
        return False
    return bool(found.shape == wanted.shape and (found - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())


def _made_by(model: nn.Module, pictures: Tensor, logit: Tensor) -> list[nn.Linear]:
    """The linear layers whose output is the logit."""
    found: list[nn.Linear] = []

    def note(module: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        if module.out_features == 1 and torch.equal(output.reshape(-1, 1), logit):
            found.append(module)

    handles = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, nn.Linear)]
    model(pictures)
    for handle in handles:
        handle.remove()
    return found


def _double(module: nn.Linear) -> None:
    module.out_features = 2
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(torch.cat((-parameter, parameter)), requires_grad=False))


def _halve(module: nn.Linear) -> None:
    module.out_features = 1
    for name, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, name, nn.Parameter(parameter[1:].clone(), requires_grad=False))
