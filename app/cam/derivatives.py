"""Gradient and Hessian-vector product of the utility with respect to the activations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.split import SplitNetwork, State


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
    split: SplitNetwork,
    state: State,
    utility: Callable[[Float[Tensor, "row class"]], Float[Tensor, " row"]],
    *,
    second_order: bool,
) -> Derivatives:
    """Differentiates U(head(A)) once or twice; rows do not mix, since the network is in eval mode.

    H A is the derivative of <G, A> with A held constant in the second factor (Pearlmutter 1994): one more
    backward pass, never the Hessian itself.

    Args:
        split: the network.
        state: what the trunk left for the rows.
        utility: maps the logits of all rows to their utilities.
        second_order: whether `hvp` is wanted.

    Returns:
        Tensors without autograd history. Where U does not depend on A, or depends on it linearly, autograd has
        no graph to follow and answers None; the derivative is then exactly zero.
    """
    with torch.enable_grad():
        activations = state.activations.detach().requires_grad_()
        logits = split.head(state.with_activations(activations))
        values = utility(logits)
        gradients = _gradient(values.sum(), activations, create_graph=second_order)
        hvp = None
        if second_order:
            hvp = _gradient((gradients * activations.detach()).sum(), activations, create_graph=False)
    return Derivatives(logits.detach(), values.detach(), gradients.detach(), hvp)


def _gradient(scalar: Tensor, activations: Tensor, *, create_graph: bool) -> Tensor:
    if not scalar.requires_grad:
        return torch.zeros_like(activations)
    (gradient,) = torch.autograd.grad(scalar, activations, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(activations) if gradient is None else gradient
