"""DeepLIFT contributions of the channels to the utility, for LIFT-CAM."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from app.cam.errors import MethodError
from app.cam.lift_operations import NoRule, Operation, Rule, depend, rule_of, tensors_in
from app.cam.quadrature import gauss_legendre
from app.cam.split import SplitNetwork, State
from app.cam.utilities import Logits, Values

# A softmax along a line is analytic up to a distance of pi / span from it, where span is how far the change of one
# logit is from that of another. On panels over which the span is 8, Gauss-Legendre quadrature with 16 nodes gains
# a factor of 4.2 a node: an error near 1e-10. More panels than these would take longer than the head; where two of
# a thousand logits trade places as sharply as they can, the error is 3e-8 at a span of 1,000 and 3e-3 at 5,000.
_NODES = 16
_PANEL_SPAN = 8.0
_MOST_PANELS = 64


def contributions(
    split: SplitNetwork, state: State, utility: Callable[[Logits], Values]
) -> Float[Tensor, "row channel"]:
    """DeepLIFT contribution of each channel to the utility, from the reference of zero activations (Jung and Oh 2021).

    l_i = sum_j m_ij A_ij, where the multipliers m chain from the utility to the activations (Shrikumar et al. 2017,
    Eq. 3): through softmax utilities by their mean gradient along the line between the reference logits and the
    logits, through element-wise functions by the Rescale rule, through max pooling and products by rules of their
    own, and through linear maps as they are. Contributions of a row sum to U(A) - U(0) (summation to delta, Eq. 1).

    Args:
        split: the network.
        state: what the trunk left for the rows; the reference has the same carry.
        utility: maps the logits of all rows to their utilities.

    Returns:
        l, in units of the utility, without autograd history.

    Raises:
        MethodError: the head has an operation without a rule, such as attention or layer normalisation.
    """
    if split.classifier is not None:
        return _contributions_pooled(split.classifier, state, utility)
    with torch.enable_grad():
        recording = _Recording(split.layer)
        reference = torch.zeros_like(state.activations).requires_grad_()
        start = split.head(state.with_activations(reference), recording).detach()
        activations = state.activations.detach().requires_grad_()
        rescaling = _Rescaling(split.layer, recording.noted)
        logits = split.head(state.with_activations(activations), rescaling)
        rescaling.finish(logits)
    if not logits.requires_grad:
        return activations.new_zeros(activations.shape[:2])
    slope = _mean_slope(utility, start, logits.detach()).to(logits.dtype)
    (multipliers,) = torch.autograd.grad(logits, activations, slope, allow_unused=True, materialize_grads=True)
    return (multipliers * state.activations).sum(dim=(2, 3))


def _contributions_pooled(
    classifier: nn.Linear, state: State, utility: Callable[[Logits], Values]
) -> Float[Tensor, "row channel"]:
    """Since y - y0 = V m(A), l_i = m(A_i) (V^T m_y)_i."""
    means = state.activations.mean(dim=(2, 3))
    change = functional.linear(means, classifier.weight)
    start = torch.zeros_like(change) if classifier.bias is None else classifier.bias.expand_as(change)
    slope = _mean_slope(utility, start, start + change).to(means.dtype)
    return means * (slope @ classifier.weight)


def _mean_slope(utility: Callable[[Logits], Values], start: Logits, end: Logits) -> Float[Tensor, "row class"]:
    """Integral over t in [0, 1] of dU/dy at y0 + t (y - y0), in float64; times y - y0 it sums to U(y) - U(y0)."""
    start, way = start.double(), end.double() - start.double()
    span = float((way.amax(dim=1) - way.amin(dim=1)).max())
    panels = min(max(math.ceil(span / _PANEL_SPAN), 1), _MOST_PANELS) if math.isfinite(span) else 1
    total = torch.zeros_like(start)
    for panel in range(panels):
        for node, weight in zip(*gauss_legendre(_NODES), strict=True):
            total += weight / panels * _slope_at(utility, start + (panel + node) / panels * way)
    return total


def _slope_at(utility: Callable[[Logits], Values], logits: Logits) -> Float[Tensor, "row class"]:
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        values = utility(logits)
    if not values.requires_grad:
        return torch.zeros_like(logits)
    ones = torch.ones_like(values)
    (slope,) = torch.autograd.grad(values, logits, ones, allow_unused=True, materialize_grads=True)
    return slope


@dataclass(frozen=True, slots=True)
class _Noted:
    """An operation on the reference: its name, its rule and its inputs, in float64."""

    name: str
    rule: Rule
    inputs: tuple[Tensor, ...]


class _Watching(TorchFunctionMode):
    """Sees every operation of a head, lets linear ones pass, and refuses those that nothing is known of.

    What depends on the activations requires a gradient, on the reference too, so that both passes see the same
    operations. Code that torch does not show to modes, such as a script, is found out by its results: they lack the
    mark that everything seen here gets.
    """

    def __init__(self, layer: str) -> None:
        super().__init__()
        self._layer = layer
        self._entered = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever `func` returns
        operation = Operation(func, args, kwargs or {}, depend(tensors_in((args, kwargs or {}))))
        if not operation.inputs:
            return operation.run()
        try:
            self._check_seen(operation.inputs)
            output = self._apply(operation)
        except NoRule as reason:
            raise self._refusal(reason) from reason
        # What was written in place may have been a constant before.
        for tensor in depend(tensors_in((output, args[:1]))):
            _mark(tensor)
        return output

    def finish(self, logits: Logits) -> None:
        """Checks, with the head's output, that nothing escaped.

        Raises:
            MethodError: the head ends with code that is not shown to modes.
        """
        try:
            self._check_seen(depend((logits,)))
        except NoRule as reason:
            raise self._refusal(reason) from reason

    def _apply(self, operation: Operation) -> Any:  # noqa: ANN401 - whatever the operation returns
        if operation.reads_shape:
            return operation.run()
        if not torch.is_grad_enabled():
            raise NoRule(f"{operation.name} without autograd")
        rule = rule_of(operation)
        if rule is not None:
            return self._apply_rule(operation, rule)
        output = operation.run()
        if not all(tensor.requires_grad for tensor in tensors_in(output)):
            raise NoRule(f"{operation.name} to a type without a derivative")
        return output

    def _apply_rule(self, operation: Operation, rule: Rule) -> Tensor:
        raise NotImplementedError

    def _check_seen(self, tensors: tuple[Tensor, ...]) -> None:
        for tensor in tensors:
            if _is_marked(tensor):
                continue
            hidden = "a parameter that is not frozen" if tensor.grad_fn is None else tensor.grad_fn.name()
            # The head is handed a clone, which was made before this mode was entered.
            if self._entered or hidden != "CloneBackward0":
                raise NoRule(f"code that torch hides ({hidden})")
            self._entered = True
            _mark(tensor)

    def _refusal(self, reason: NoRule) -> MethodError:
        return MethodError(
            f"'liftcam' has no rule for {reason}, which follows '{self._layer}'; use another method or a layer after it"
        )


class _Recording(_Watching):
    """Notes the inputs of every operation that has a rule, on the reference."""

    def __init__(self, layer: str) -> None:
        super().__init__(layer)
        self.noted: deque[_Noted] = deque()

    def _apply_rule(self, operation: Operation, rule: Rule) -> Tensor:
        # Copies: a later operation in place may overwrite them.
        references = tuple(tensor.detach().to(torch.float64, copy=True) for tensor in operation.inputs)
        self.noted.append(_Noted(operation.name, rule, references))
        output = operation.run()
        assert isinstance(output, Tensor)
        return output


class _Rescaling(_Watching):
    """Gives every operation that has a rule the multipliers of this rule for a derivative."""

    def __init__(self, layer: str, noted: deque[_Noted]) -> None:
        super().__init__(layer)
        self._noted = noted

    def finish(self, logits: Logits) -> None:
        """Checks besides that the head did no less than on the reference."""
        super().finish(logits)
        if self._noted:
            raise self._divergence(self._noted[0].name)

    def _apply_rule(self, operation: Operation, rule: Rule) -> Tensor:
        noted = self._noted.popleft() if self._noted else None
        if noted is None or (noted.name, noted.rule) != (operation.name, rule):
            raise self._divergence(operation.name)
        if any(start.shape != end.shape for start, end in zip(noted.inputs, operation.inputs, strict=True)):
            raise self._divergence(operation.name)
        value, linear = rule(operation, noted.inputs)
        # The value of the operation itself, with the derivative of the linear map.
        output = value + (linear - linear.detach())
        return operation.args[0].copy_(output) if operation.in_place else output

    def _divergence(self, name: str) -> MethodError:
        return MethodError(
            f"'liftcam' needs a head that computes the same operations for all activations; the one after "
            f"'{self._layer}' does not ({name})"
        )


def _mark(tensor: Tensor) -> None:
    tensor._seen_by_lift = True  # type: ignore[attr-defined]


def _is_marked(tensor: Tensor) -> bool:
    return hasattr(tensor, "_seen_by_lift")
