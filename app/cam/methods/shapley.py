"""The methods that find the game's own values: sampled, enumerated or integrated."""

import math
from dataclasses import replace
from functools import partial

import torch

from app.cam.chunks import chunks
from app.cam.coalitions import Coalitions
from app.cam.game import Game
from app.cam.methods.registry import Attribution, Estimate, Evidence, Maps, method
from app.cam.quadrature import gauss_legendre
from app.cam.sampling import MOST_ENUMERATED, enumerate_values, pairs_at_once, sample_values
from app.cam.split import Layer
from app.cam.state import SplitState
from app.cam.utilities import values_of_rows
from app.cam.work import SamplingOptions, WorkEstimate


def _work_of_sampling(layer: Layer, sampling: SamplingOptions) -> WorkEstimate:
    """A tolerance may end the sampling earlier, and nothing says when: it is counted to its cap."""
    players = layer.grid.height * layer.grid.width
    if players > MOST_ENUMERATED:
        count, rounds = (
            sampling.permutations * (players - 1),
            math.ceil(sampling.permutations / 2 / pairs_at_once(players)),
        )
    else:
        count, rounds = 2**players, players
    return replace(layer.structure.coalition_work(players, count), utility_values=count, rounds=rounds)


@method(
    "shapley-sampling",
    "The Shapley values themselves, sampled over random permutations with a standard error each; exact for at most "
    f"{MOST_ENUMERATED} players. The ground truth for the rest.",
    "Shapley 1953; Castro et al. 2009; antithetic pairs: Mitchell et al. 2022",
    needs=("game",),
    efficient="always",
    parameters=("permutations", "tolerance", "seed"),
    work=_work_of_sampling,
)
def shapley_sampling(evidence: Evidence) -> Estimate:
    """Mean over permutations of each player's marginal contribution when it joins (Cai 2025, Eq. 8)."""
    game = evidence.required_game
    attribution = torch.empty_like(evidence.activations[:, 0], dtype=torch.float64)
    standard_error = torch.empty_like(attribution)
    for state, numbers in game.by_image():
        coalitions = Coalitions(game, state, numbers)
        find = enumerate_values if game.players <= MOST_ENUMERATED else sample_values
        for number, (values, error) in find(game, coalitions, numbers).items():
            attribution[number] = values.reshape(attribution.shape[1:])
            standard_error[number] = error.reshape(attribution.shape[1:])
    return Estimate(attribution.to(evidence.activations), standard_error.to(evidence.activations))


@method(
    "aumann-shapley",
    "Aumann-Shapley values: gradients integrated from zero to the activations; head passes only, and efficient.",
    "Aumann and Shapley 1974",
    needs=("game",),
    efficient="always",
    parameters=("nodes",),
    work=lambda _layer, sampling: WorkEstimate(gradient_rows=sampling.nodes),
)
def aumann_shapley(evidence: Evidence) -> Attribution:
    """Sum over channels of A_i times the integral over t in [0, 1] of dU/dA_i at t A, by Gauss-Legendre quadrature."""
    game = evidence.required_game
    states = game.split.structure.reduced(game.row_states())
    maps = states.activations
    points = [
        (number, scale, weight)
        for number, row in enumerate(game.rows)
        for scale, weight in zip(*gauss_legendre(row.sampling.nodes), strict=True)
    ]
    gradients = torch.zeros_like(maps)
    for chunk in chunks(points, game.split.rows_differentiated_at_once(maps)):
        game.checkpoint()
        numbers, scales, weights = zip(*chunk, strict=True)
        gradients.index_add_(
            0, torch.tensor(numbers, device=maps.device), _weighted_gradients(game, states, numbers, scales, weights)
        )
    merged = game.players // (maps.shape[2] * maps.shape[3])
    return (gradients / merged * evidence.activations).sum(dim=1)


def _weighted_gradients(
    game: Game, states: SplitState, numbers: tuple[int, ...], scales: tuple[float, ...], weights: tuple[float, ...]
) -> Maps:
    """Quadrature weight times dU/dA at t A, for some (row, t, weight)."""
    game.count_head_rows(numbers, 1)
    device = states.activations.device
    rows = states.take(torch.tensor(numbers, device=device))
    targets = torch.tensor([game.rows[number].target_class for number in numbers], device=device)
    utility = partial(values_of_rows, targets=targets, utilities=[game.rows[number].utility for number in numbers])
    scale, weight = (
        torch.tensor(factors, device=device, dtype=rows.activations.dtype)[:, None, None, None]
        for factors in (scales, weights)
    )
    found = game.split.differentiate(rows.with_activations(rows.activations * scale), utility, second_order=False)
    return found.gradients * weight
