"""Gradient and Hessian-vector product of the utility with respect to the activations."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.missing_derivatives import NoDerivative, named_where_missing, once_differentiable_in
from app.cam.state import RunnableHead, SplitState
from app.cam.utilities import Logits, UtilityFunction, Values


@dataclass(frozen=True, slots=True)
class Derivatives:
    """The utility around the activations of each row.

    Attributes:
        logits: (row, class).
        values: U(A).
        gradients: G = dU/dA.
        hvp: H A, the Hessian of U times the activations themselves; None where not asked for.
    """

    logits: Float[Tensor, "row class"]
    values: Float[Tensor, " row"]
    gradients: Float[Tensor, "row channel height width"]
    hvp: Float[Tensor, "row channel height width"] | None


def differentiate(
    split: RunnableHead, state: SplitState, utility: UtilityFunction, *, second_order: bool
) -> Derivatives:
    """Differentiates U(head(A)) once or twice; rows do not mix, since the network is in eval mode.

    H A is the derivative of <G, A> with A held constant in the second factor (Pearlmutter 1994): one more
    backward pass, never the Hessian itself.

    Args:
        split: what runs the head.
        state: of the rows.
        utility: maps the logits of all rows to their utilities.
        second_order: whether `hvp` is wanted.

    Returns:
        Tensors without autograd history. Where U does not depend on A, or depends on it linearly, autograd has
        no graph to follow and answers None; the derivative is then exactly zero.

    Raises:
        NoDerivative: torch cannot differentiate an operation of the head, or not twice.
    """
    with torch.enable_grad():
        activations = state.activations.detach().requires_grad_()
        logits = split.head(state.with_activations(activations))
        values = utility(logits)
        hvp = None
        with named_where_missing(split.layer, values, second=second_order):
            gradients = gradient_of(values, activations, create_graph=second_order)
            if second_order:
                hvp = gradient_of(gradients, activations, direction=activations.detach())
    return Derivatives(logits.detach(), values.detach(), gradients.detach(), hvp)


def missing_derivatives(split: RunnableHead, state: SplitState) -> tuple[str | None, str | None]:
    """The operations of the head that torch cannot differentiate once, and not twice; None where there is no such.

    Args:
        split: what runs the head.
        state: of a row to try it with.
    """

    def sums(logits: Logits) -> Values:
        marked = once_differentiable_in(logits)
        if marked is not None:
            raise NoDerivative(marked, split.layer, second=True)
        return logits.logsumexp(dim=1)

    try:
        differentiate(split, state, sums, second_order=True)
    except NoDerivative as second:
        try:
            differentiate(split, state, lambda logits: logits.logsumexp(dim=1), second_order=False)
        except NoDerivative as first:
            return first.operation, first.operation
        return None, second.operation
    except torch.OutOfMemoryError:  # of this network nothing can be said here
        pass
    return None, None


def gradient_of(
    outputs: Tensor, variable: Tensor, *, direction: Tensor | None = None, create_graph: bool = False
) -> Tensor:
    """Derivative of <outputs, direction> with respect to the variable; of their sum where no direction is given."""
    if not outputs.requires_grad:
        return torch.zeros_like(variable)
    weights = torch.ones_like(outputs) if direction is None else direction
    (gradient,) = torch.autograd.grad(outputs, variable, weights, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(variable) if gradient is None else gradient
