"""Gradient and Hessian-vector product of the utility with respect to the activations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from app.cam.split import SplitNetwork, State
from app.cam.utilities import Logits, Values


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
    utility: Callable[[Logits], Values],
    *,
    second_order: bool,
) -> Derivatives:
    """Differentiates U(head(A)) once or twice; rows do not mix, since the network is in eval mode.

    H A is the derivative of <G, A> with A held constant in the second factor (Pearlmutter 1994): one more
    backward pass, never the Hessian itself.

    Where the head is global average pooling and one linear layer, both have a closed form in the derivatives
    with respect to the logits, and the head is not run at all.

    Args:
        split: the network.
        state: what the trunk left for the rows.
        utility: maps the logits of all rows to their utilities.
        second_order: whether `hvp` is wanted.

    Returns:
        Tensors without autograd history. Where U does not depend on A, or depends on it linearly, autograd has
        no graph to follow and answers None; the derivative is then exactly zero.
    """
    if split.classifier is not None:
        return _differentiate_pooled(split.classifier, state, utility, second_order=second_order)
    with torch.enable_grad():
        activations = state.activations.detach().requires_grad_()
        logits = split.head(state.with_activations(activations))
        values = utility(logits)
        gradients = _gradient(values, activations, create_graph=second_order)
        hvp = None
        if second_order:
            hvp = _gradient(gradients, activations, direction=activations.detach())
    return Derivatives(logits.detach(), values.detach(), gradients.detach(), hvp)


def _differentiate_pooled(
    classifier: nn.Linear,
    state: State,
    utility: Callable[[Logits], Values],
    *,
    second_order: bool,
) -> Derivatives:
    """Since y = V m(A) + b is linear in A, G = V^T dU/dy / d and H A = V^T (d2U/dy2 V m(A)) / d at every position."""
    activations = state.activations
    players = activations.shape[2] * activations.shape[3]
    linear_part = functional.linear(activations.mean(dim=(2, 3)), classifier.weight)
    with torch.enable_grad():
        logits = linear_part if classifier.bias is None else linear_part + classifier.bias
        logits = logits.detach().requires_grad_()
        values = utility(logits)
        slope = _gradient(values, logits, create_graph=second_order)
        curvature = _gradient(slope, logits, direction=linear_part) if second_order else None

    of_logits = slope.detach() if curvature is None else torch.cat((slope.detach(), curvature))
    of_maps = (of_logits @ classifier.weight / players)[:, :, None, None]
    gradients, *hvp = (part.expand_as(activations) for part in of_maps.split(len(state)))
    return Derivatives(logits.detach(), values.detach(), gradients, hvp[0] if hvp else None)


def _gradient(
    outputs: Tensor, variable: Tensor, *, direction: Tensor | None = None, create_graph: bool = False
) -> Tensor:
    """Derivative of <outputs, direction> with respect to the variable; of their sum where no direction is given."""
    if not outputs.requires_grad:
        return torch.zeros_like(variable)
    weights = torch.ones_like(outputs) if direction is None else direction
    (gradient,) = torch.autograd.grad(outputs, variable, weights, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(variable) if gradient is None else gradient
