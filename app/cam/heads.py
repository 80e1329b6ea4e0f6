"""What a head is known to be, and the shortest way to its derivatives, terms and contributions that this allows."""
# ruff: noqa: ARG002 - a closed form leaves unused what others need.

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from app.cam.chunks import rows_at_once, rows_differentiated_at_once
from app.cam.derivatives import Derivatives, differentiate, gradient_of
from app.cam.last_layer import LastLayer, watch_last_layer
from app.cam.lift import contributions, mean_gradient
from app.cam.state import RunnableHead, SplitState
from app.cam.utilities import UtilityFunction
from app.cam.work import WorkEstimate


@dataclass(frozen=True, kw_only=True)
class HeadStructure:
    """A head of which only the facts below are known: everything else is found by running it.

    A subclass stands for heads with closed forms. `app.cam.structure.probe` decides which one a head is.

    Attributes:
        pools: whether the head sees the activations only through their spatial mean.
        additive: whether the logits are a sum over players, y(S) = y(0) + sum over j in S of a term of j alone: so it
            is where nothing before global average pooling mixes positions, and one linear layer follows.
        channelwise: whether the input of the last linear layer has an entry for each channel that depends on this
            channel alone.
        no_first_derivative: name of an operation of the head that torch cannot differentiate; else None.
        no_second_derivative: name of one that torch cannot differentiate twice; else None.
        is_closed_form: whether nothing below runs the head.
    """

    pools: bool = False
    additive: bool = False
    channelwise: bool = False
    no_first_derivative: str | None = None
    no_second_derivative: str | None = None
    is_closed_form: ClassVar[bool] = False

    def differentiate(
        self, split: RunnableHead, state: SplitState, utility: UtilityFunction, *, second_order: bool
    ) -> Derivatives:
        """U and its derivatives; see `app.cam.derivatives.differentiate`."""
        return differentiate(split, state, utility, second_order=second_order)

    def lift_contributions(
        self, split: RunnableHead, state: SplitState, utility: UtilityFunction
    ) -> Float[Tensor, "row channel"]:
        """DeepLIFT contributions of the channels; see `app.cam.lift.contributions`."""
        return contributions(split, state, utility)

    def last_layer(self, split: RunnableHead, state: SplitState) -> LastLayer | None:
        """The last linear layer on some rows; None where the logits do not come from one."""
        return watch_last_layer(split, state)

    def player_terms(self, state: SplitState) -> Float[Tensor, "player class"] | None:
        """What each player adds to the logits of a state of one row; None where the head must be run to know."""
        return None

    def coalition_work(self, players: int, coalitions: int) -> WorkEstimate:
        """What the logits of so many coalitions of one image take."""
        if self.additive:
            return WorkEstimate(head_rows=players, coalitions=coalitions)
        return WorkEstimate(head_rows=coalitions)

    def reduced(self, state: SplitState) -> SplitState:
        """The state with as few positions as give the same logits; gradients there are sums over what was merged."""
        return state

    def rows_differentiated_at_once(self, activations: Float[Tensor, "row channel height width"], *, deep: bool) -> int:
        """How many rows of such activations are differentiated together, by a head that is deep or not."""
        return rows_differentiated_at_once(activations, deep=deep)


@dataclass(frozen=True, kw_only=True)
class PooledLinearHead(HeadStructure):
    """Global average pooling and one linear layer: y(A) = V m(A) + b.

    Attributes:
        classifier: the linear layer, with V and b.
    """

    classifier: nn.Linear
    pools: bool = field(default=True, init=False)
    additive: bool = field(default=True, init=False)
    channelwise: bool = field(default=True, init=False)
    is_closed_form: ClassVar[bool] = True

    def differentiate(
        self, split: RunnableHead, state: SplitState, utility: UtilityFunction, *, second_order: bool
    ) -> Derivatives:
        """G = V^T dU/dy / d and H A = V^T (d2U/dy2 V m(A)) / d at every position, since y is linear in A."""
        activations = state.activations
        players = activations.shape[2] * activations.shape[3]
        linear_part = functional.linear(activations.mean(dim=(2, 3)), self.classifier.weight)
        with torch.enable_grad():
            logits = linear_part if self.classifier.bias is None else linear_part + self.classifier.bias
            logits = logits.detach().requires_grad_()
            values = utility(logits)
            first = gradient_of(values, logits, create_graph=second_order)
            second = gradient_of(first, logits, direction=linear_part) if second_order else None

        of_logits = first.detach() if second is None else torch.cat((first.detach(), second))
        of_maps = (of_logits @ self.classifier.weight / players)[:, :, None, None]
        gradients, *hvp = (part.expand_as(activations) for part in of_maps.split(len(state)))
        return Derivatives(logits.detach(), values.detach(), gradients, hvp[0] if hvp else None)

    def lift_contributions(
        self, split: RunnableHead, state: SplitState, utility: UtilityFunction
    ) -> Float[Tensor, "row channel"]:
        """l_i = m(A_i) (V^T m_y)_i, since y - y0 = V m(A)."""
        means = state.activations.mean(dim=(2, 3))
        change = functional.linear(means, self.classifier.weight)
        bias = self.classifier.bias
        start = torch.zeros_like(change) if bias is None else bias.expand_as(change)
        gradient = mean_gradient(utility, start, start + change).to(means.dtype)
        return means * (gradient @ self.classifier.weight)

    def last_layer(self, split: RunnableHead, state: SplitState) -> LastLayer:
        """The linear layer on the spatial means."""
        means = state.activations.mean(dim=(2, 3))
        with torch.no_grad():
            return LastLayer(means, self.classifier.weight, self.classifier(means))

    def player_terms(self, state: SplitState) -> Float[Tensor, "player class"]:
        """V A_j / d for each position j."""
        maps = state.activations[0].flatten(1)
        return maps.T @ self.classifier.weight.T / maps.shape[1]

    def coalition_work(self, players: int, coalitions: int) -> WorkEstimate:
        """Only the sums: the head is not run."""
        return WorkEstimate(coalitions=coalitions)

    def reduced(self, state: SplitState) -> SplitState:
        """The spatial mean as one player that stands for all."""
        return state.with_activations(state.activations.mean(dim=(2, 3), keepdim=True))

    def rows_differentiated_at_once(self, activations: Float[Tensor, "row channel height width"], *, deep: bool) -> int:
        """As many as the head would take without derivatives."""
        return rows_at_once(activations)

    def class_weights(self, targets: Int[Tensor, " row"]) -> Float[Tensor, "row channel"]:
        """The row w^c of V for each target class."""
        return self.classifier.weight[targets]
