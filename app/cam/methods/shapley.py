"""The methods that find the game's own values: sampled, enumerated or integrated."""

from functools import partial

import torch

from app.cam.chunks import chunks, rows_at_once
from app.cam.coalitions import Coalitions
from app.cam.derivatives import differentiate
from app.cam.game import Effort, Game, Work
from app.cam.methods.registry import Attribution, Estimate, Evidence, Maps, method
from app.cam.quadrature import gauss_legendre
from app.cam.sampling import MOST_ENUMERATED, enumerate_values, sample_values
from app.cam.split import SplitNetwork, State
from app.cam.utilities import values_of_rows


def _work_of_sampling(split: SplitNetwork, effort: Effort) -> Work:
    players = split.grid.height * split.grid.width
    count = effort.permutations * (players - 1) if players > MOST_ENUMERATED else 2**players
    if not split.additive:
        return Work(head_rows=count, is_shared=True)
    return Work(head_rows=0 if split.classifier is not None else players, coalitions=count, is_shared=True)


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
    game = evidence.played
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
    "Aumann-Shapley values: gradients integrated from silence to the activations; head passes only, and efficient.",
    "Aumann and Shapley 1974",
    needs=("game",),
    efficient="always",
    parameters=("nodes",),
    work=lambda split, effort: Work(head_rows=0 if split.classifier is not None else 3 * effort.nodes),
)
def aumann_shapley(evidence: Evidence) -> Attribution:
    """Sum over channels of A_i times the integral over t in [0, 1] of dU/dA_i at t A, by Gauss-Legendre quadrature."""
    game = evidence.played
    # Where the head is pooling and a linear layer, the spatial mean is a player that stands for all.
    pooled = game.split.classifier is not None
    maps = evidence.activations.mean(dim=(2, 3), keepdim=True) if pooled else evidence.activations
    states = game.row_states().with_activations(maps)
    points = [
        (number, scale, weight)
        for number, row in enumerate(game.rows)
        for scale, weight in zip(*gauss_legendre(row.effort.nodes), strict=True)
    ]
    gradients = torch.zeros_like(maps)
    for chunk in chunks(points, rows_at_once(maps)):
        game.pause()
        numbers, scales, weights = zip(*chunk, strict=True)
        gradients.index_add_(
            0, torch.tensor(numbers, device=maps.device), _weighted_gradients(game, states, numbers, scales, weights)
        )
    if pooled:
        gradients = gradients / game.players
    return (gradients * evidence.activations).sum(dim=1)


def _weighted_gradients(
    game: Game, states: State, numbers: tuple[int, ...], scales: tuple[float, ...], weights: tuple[float, ...]
) -> Maps:
    """Quadrature weight times dU/dA at t A, for some (row, t, weight)."""
    for number in numbers:
        game.count_heads([number], 1)
    device = states.activations.device
    rows = states.take(torch.tensor(numbers, device=device))
    targets = torch.tensor([game.rows[number].target_class for number in numbers], device=device)
    utility = partial(values_of_rows, targets=targets, utilities=[game.rows[number].utility for number in numbers])
    scale, weight = (
        torch.tensor(factors, device=device, dtype=rows.activations.dtype)[:, None, None, None]
        for factors in (scales, weights)
    )
    found = differentiate(game.split, rows.with_activations(rows.activations * scale), utility, second_order=False)
    return found.gradients * weight
