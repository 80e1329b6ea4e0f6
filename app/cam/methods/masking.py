"""The methods that weigh channels by what the network makes of masked images or masked activations."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from app.cam.game import Game, Work
from app.cam.lift import contributions
from app.cam.methods.gradient import weigh
from app.cam.methods.registry import Attribution, Evidence, method
from app.cam.split import State
from app.cam.structure import last_layer

_EPSILON = 1e-7


@method(
    "scorecam",
    "Score-CAM: each channel weighs as much as the image seen through it scores; one forward pass a channel.",
    "Wang et al. 2020, Eq. 6",
    needs=("game",),
    work=lambda split, _: Work(images=split.grid.channels, is_shared=True),
)
def scorecam(evidence: Evidence) -> Attribution:
    """Sum over channels of s_i A_i, s = softmax over channels of U(x * M_i).

    M_i is channel i upsampled to the input (bilinear, half-pixel centres) and min-max normalised. The masks are made
    as they are needed; channels that are the same everywhere mask all of the image and share one pass.
    """
    game = evidence.played
    scores = torch.empty_like(evidence.activations[:, :, 0, 0])
    for state, numbers in game.by_image():
        logits = _scores_of_channels(game, state, numbers)
        for number in numbers:
            scores[number] = game.paid(number, logits)
    return weigh(scores.softmax(dim=1), evidence.activations)


def _scores_of_channels(game: Game, state: State, numbers: list[int]) -> Float[Tensor, "channel class"]:
    channels = state.activations[0]
    is_constant = channels.amax(dim=(1, 2)) == channels.amin(dim=(1, 2))
    # One representative stands for all that are constant.
    order, place = torch.unique(
        torch.where(is_constant, -1, torch.arange(len(channels), device=channels.device)), return_inverse=True
    )
    chosen = torch.where(order < 0, is_constant.int().argmax(), order)

    def masks(some: slice) -> Float[Tensor, "some height width"]:
        enlarged = interpolate(
            channels[chosen[some]][:, None], game.images.shape[2:], mode="bilinear", align_corners=False
        )[:, 0]
        shifted = enlarged - enlarged.amin(dim=(1, 2), keepdim=True)
        masks = shifted / (_EPSILON + shifted.amax(dim=(1, 2), keepdim=True))
        # Enlarging rounds, and what is constant would be the contrast of its rounding.
        return masks.masked_fill_(is_constant[chosen[some]][:, None, None], 0)

    return game.run_network(game.rows[numbers[0]].image, masks, len(chosen), numbers)[place]


@method(
    "ablationcam",
    "Ablation-CAM: each channel weighs as much as the utility falls without it.",
    "Desai and Ramaswamy 2020, without the division by U, which flips signs where U < 0",
    needs=("game",),
    work=lambda split, _: Work(head_rows=3 if split.channelwise else split.grid.channels, is_shared=True),
)
def ablationcam(evidence: Evidence) -> Attribution:
    """Sum over channels of (U(A) - U(A with A_i set to zero)) A_i."""
    game = evidence.played
    weights = torch.empty_like(evidence.activations[:, :, 0, 0])
    for state, numbers in game.by_image():
        logits = _logits_without_channels(game, state, numbers)
        for number in numbers:
            weights[number] = game.values[number] - game.paid(number, logits)
    return weigh(weights, evidence.activations)


def _logits_without_channels(game: Game, state: State, numbers: list[int]) -> Float[Tensor, "channel class"]:
    """The head's logits with each channel set to zero in turn."""
    split = game.split
    channels = state.activations.shape[1]
    if split.channelwise:
        # Each feature of the last linear layer hangs on one channel alone: without it, the feature is that of silence.
        game.count_heads(numbers, 2)
        everything = last_layer(split, state)
        nothing = last_layer(split, state.with_activations(torch.zeros_like(state.activations)))
        assert everything is not None
        assert nothing is not None
        return everything.logits - ((everything.features - nothing.features) * everything.weights).T

    def without_one(rows: Tensor, versions: Tensor) -> Tensor:
        kept = torch.ones(len(versions), channels, device=rows.device, dtype=rows.dtype)
        kept[torch.arange(len(versions), device=rows.device), versions] = 0
        return rows * kept[:, :, None, None]

    return game.run_head(state, channels, without_one, numbers)


@method(
    "liftcam",
    "LIFT-CAM: DeepLIFT contributions of the channels, by the Rescale rule from a zero reference.",
    "Jung and Oh 2021; Shrikumar et al. 2017",
    needs=("game",),
)
def liftcam(evidence: Evidence) -> Attribution:
    """Sum over channels of l_i A_i; the contributions l_i sum to U(A) - U(0)."""
    game = evidence.played
    game.count_heads(list(range(len(game.rows))), 2)
    weights = contributions(game.split, game.row_states(), game.utility)
    return weigh(weights, evidence.activations)


@method(
    "fakecam",
    "Fake-CAM: all ones but the first position; the sanity baseline that fools average drop and coherency.",
    "Poppi et al. 2021",
    needs=(),
)
def fakecam(evidence: Evidence) -> Attribution:
    """One everywhere, zero at the first player."""
    attribution = torch.ones_like(evidence.activations[:, 0])
    attribution[:, 0, 0] = 0
    return attribution
