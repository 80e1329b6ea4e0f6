"""The methods that weigh channels by what the network makes of masked images or masked activations."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from app.cam.chunks import chunks
from app.cam.game import Game
from app.cam.heatmap import is_constant, min_max
from app.cam.methods.gradient import weigh
from app.cam.methods.registry import Attribution, Evidence, method
from app.cam.state import SplitState
from app.cam.work import WorkEstimate


@method(
    "scorecam",
    "Score-CAM: each channel weighs as much as the image seen through it scores; one forward pass a channel.",
    "Wang et al. 2020, Eq. 6",
    needs=("game",),
    work=lambda layer, _: WorkEstimate(images=layer.grid.channels, utility_values=layer.grid.channels, rounds=1),
)
def scorecam(evidence: Evidence) -> Attribution:
    """Sum over channels of s_i A_i, s = softmax over channels of U(x * M_i).

    M_i is channel i upsampled to the input (bilinear, half-pixel centres) and min-max normalised. The masks are made
    as they are needed; channels that are the same everywhere mask all of the image and share one pass.
    """
    game = evidence.required_game
    scores = torch.empty_like(evidence.activations[:, :, 0, 0])
    for state, numbers in game.by_image():
        logits = _scores_of_channels(game, state, numbers)
        for number in numbers:
            scores[number] = game.row_utility(number, logits)
    return weigh(scores.softmax(dim=1), evidence.activations)


def _scores_of_channels(game: Game, state: SplitState, numbers: list[int]) -> Float[Tensor, "channel class"]:
    channels = state.activations[0]
    constant = is_constant(channels)
    # One representative stands for all that are constant.
    order, place = torch.unique(
        torch.where(constant, -1, torch.arange(len(channels), device=channels.device)), return_inverse=True
    )
    chosen = torch.where(order < 0, constant.int().argmax(), order)

    def masks(some: slice) -> Float[Tensor, "some height width"]:
        enlarged = interpolate(
            channels[chosen[some]][:, None], game.images.shape[2:], mode="bilinear", align_corners=False
        )[:, 0]
        # Enlarging rounds, and what is constant would be the contrast of its rounding.
        return min_max(enlarged).masked_fill_(constant[chosen[some]][:, None, None], 0)

    return game.run_network(game.rows[numbers[0]].image_index, masks, len(chosen), numbers)[place]


@method(
    "ablationcam",
    "Ablation-CAM: each channel weighs as much as the utility falls without it.",
    "Desai and Ramaswamy 2020, without the division by U, which flips signs where U < 0",
    needs=("game",),
    work=lambda layer, _: WorkEstimate(
        head_rows=2 if layer.structure.channelwise else layer.grid.channels,
        utility_values=layer.grid.channels,
        rounds=1,
    ),
)
def ablationcam(evidence: Evidence) -> Attribution:
    """Sum over channels of (U(A) - U(A with A_i set to zero)) A_i."""
    game = evidence.required_game
    weights = torch.empty_like(evidence.activations[:, :, 0, 0])
    for state, numbers in game.by_image():
        logits = _logits_without_channels(game, state, numbers)
        for number in numbers:
            weights[number] = game.values[number] - game.row_utility(number, logits)
    return weigh(weights, evidence.activations)


def _logits_without_channels(game: Game, state: SplitState, numbers: list[int]) -> Float[Tensor, "channel class"]:
    """The head's logits with each channel set to zero in turn."""
    split = game.split
    channels = state.activations.shape[1]
    if split.structure.channelwise:
        # Each feature of the last linear layer depends on one channel alone: without the channel it is as for zeros.
        game.count_head_rows(numbers, 2)
        everything = split.last_layer(state)
        nothing = split.last_layer(state.with_activations(torch.zeros_like(state.activations)))
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
    work=lambda _layer, _effort: WorkEstimate(lift_rows=1),
)
def liftcam(evidence: Evidence) -> Attribution:
    """Sum over channels of l_i A_i; the contributions l_i sum to U(A) - U(0)."""
    game = evidence.required_game
    game.count_head_rows(range(len(game.rows)), 2)
    states = game.row_states()
    weights = []
    for rows in chunks(range(len(states)), game.split.rows_differentiated_at_once(states.activations)):
        game.checkpoint()
        utility = partial(game.utility_of, list(rows))
        weights.append(game.split.lift_contributions(states.take(slice(rows[0], rows[-1] + 1)), utility))
    return weigh(torch.cat(weights), evidence.activations)


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
