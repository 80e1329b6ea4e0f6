"""DeepLIFT contributions of the channels to the utility, for LIFT-CAM."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from app.cam.derivatives import gradient_of
from app.cam.errors import MethodError
from app.cam.lift_operations import NoRule, Operation, Rule, dependent, rule_of, tensors_in
from app.cam.quadrature import softmax_line
from app.cam.state import RunnableHead, SplitState
from app.cam.utilities import Logits, UtilityFunction


def contributions(split: RunnableHead, state: SplitState, utility: UtilityFunction) -> Float[Tensor, "row channel"]:
    """DeepLIFT contribution of each channel to the utility, from the reference of zero activations (Jung and Oh 2021).

    l_i = sum_j m_ij A_ij, where the multipliers m chain from the utility to the activations (Shrikumar et al. 2017,
    Eq. 3): through softmaxes, in utilities and in the head, by their mean gradient along the line between the reference
    and what enters them, through element-wise functions by the Rescale rule, through max pooling and products by rules
    of their own, and through linear maps as they are. Contributions of a row sum to U(A) - U(0) (summation to delta,
    Eq. 1).

    Args:
        split: what runs the head.
        state: of the rows; the reference has the same carry.
        utility: maps the logits of all rows to their utilities.

    Returns:
        l, in units of the utility, without autograd history.

    Raises:
        MethodError: the head has an operation without a rule, such as attention or layer normalisation.
    """
    with torch.enable_grad():
        recording = _Recording(split.layer)
        reference = torch.zeros_like(state.activations).requires_grad_()
        start = split.head(state.with_activations(reference), recording).detach()
        activations = state.activations.detach().requires_grad_()
        rescaling = _Rescaling(split.layer, recording.recorded)
        logits = split.head(state.with_activations(activations), rescaling)
        rescaling.finish(logits)
    if not logits.requires_grad:
        return activations.new_zeros(activations.shape[:2])
    gradient = mean_gradient(utility, start, logits.detach()).to(logits.dtype)
    (multipliers,) = torch.autograd.grad(logits, activations, gradient, allow_unused=True, materialize_grads=True)
    return (multipliers * state.activations).sum(dim=(2, 3))


def mean_gradient(utility: UtilityFunction, start: Logits, end: Logits) -> Float[Tensor, "row class"]:
    """Integral over t in [0, 1] of dU/dy at y0 + t (y - y0), in float64; times y - y0 it sums to U(y) - U(y0)."""
    start, end = start.double(), end.double()
    total = torch.zeros_like(start)
    for logits, weight in softmax_line(start, end):
        total += weight * _gradient_at(utility, logits)
    return total


def _gradient_at(utility: UtilityFunction, logits: Logits) -> Float[Tensor, "row class"]:
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        return gradient_of(utility(logits), logits)


@dataclass(frozen=True, slots=True)
class _RecordedOperation:
    """An operation on the reference: its name, its rule and its inputs, in float64."""

    name: str
    rule: Rule
    inputs: tuple[Tensor, ...]


class _OperationMode(TorchFunctionMode):
    """Sees every operation of a head, lets linear ones pass, and refuses those that nothing is known of.

    What depends on the activations requires a gradient, on the reference too, so that both passes see the same
    operations. Code that torch does not show to modes, such as a script, is found out by its results: they lack the
    mark that everything shown to it gets.
    """

    def __init__(self, layer: str) -> None:
        super().__init__()
        self._layer = layer
        self._entered = False

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        operation = Operation(func, args, kwargs or {}, dependent(tensors_in((args, kwargs or {}))))
        if not operation.inputs:
            return operation.run()
        try:
            self._check_marked(operation.inputs)
            output = self._apply(operation)
        except NoRule as reason:
            raise self._refusal(reason) from reason
        # What was written in place may have been a constant before.
        for tensor in dependent(tensors_in((output, args[:1]))):
            _mark(tensor)
        return output

    def finish(self, logits: Logits) -> None:
        """Checks, with the head's output, that nothing escaped.

        Raises:
            MethodError: the head ends with code that is not shown to modes.
        """
        try:
            self._check_marked(dependent((logits,)))
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

    def _check_marked(self, tensors: tuple[Tensor, ...]) -> None:
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


class _Recording(_OperationMode):
    """Notes the inputs of every operation that has a rule, on the reference."""

    def __init__(self, layer: str) -> None:
        super().__init__(layer)
        self.recorded: deque[_RecordedOperation] = deque()

    def _apply_rule(self, operation: Operation, rule: Rule) -> Tensor:
        # Copies: a later operation in place may overwrite them.
        references = tuple(tensor.detach().to(torch.float64, copy=True) for tensor in operation.inputs)
        self.recorded.append(_RecordedOperation(operation.name, rule, references))
        output = operation.run()
        assert isinstance(output, Tensor)
        return output


class _Rescaling(_OperationMode):
    """Gives every operation that has a rule the multipliers of this rule for a derivative."""

    def __init__(self, layer: str, recorded: deque[_RecordedOperation]) -> None:
        super().__init__(layer)
        self._recorded = recorded

    def finish(self, logits: Logits) -> None:
        """Checks besides that the head did no less than on the reference."""
        super().finish(logits)
        if self._recorded:
            raise self._divergence(self._recorded[0].name)

    def _apply_rule(self, operation: Operation, rule: Rule) -> Tensor:
        recorded = self._recorded.popleft() if self._recorded else None
        if recorded is None or (recorded.name, recorded.rule) != (operation.name, rule):
            raise self._divergence(operation.name)
        if any(start.shape != end.shape for start, end in zip(recorded.inputs, operation.inputs, strict=True)):
            raise self._divergence(operation.name)
        value, linear = rule(operation, recorded.inputs)
        # The value of the operation itself, with the derivative of the linear map.
        output = value + (linear - linear.detach())
        return operation.args[0].copy_(output) if operation.in_place else output

    def _divergence(self, name: str) -> MethodError:
        return MethodError(
            f"'liftcam' needs a head that computes the same operations for all activations; the one after "
            f"'{self._layer}' does not ({name})"
        )


def _mark(tensor: Tensor) -> None:
    tensor._marked_by_lift = True  # type: ignore[attr-defined]


def _is_marked(tensor: Tensor) -> bool:
    return hasattr(tensor, "_marked_by_lift")
