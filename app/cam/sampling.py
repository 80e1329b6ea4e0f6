"""Shapley values of one image's players: enumerated for few of them, sampled over permutations for more."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.cam.coalitions import Coalitions
from app.cam.game import Effort, Game

# Up to 2^12 = 4,096 coalitions are all of them; 256 permutations of 13 players meet 3,072.
MOST_ENUMERATED = 12
# Coalitions whose logits, 1,000 classes say, stay in the processor's cache.
_COALITIONS_AT_ONCE = 768
# A standard error from fewer pairs is itself too uncertain to stop at.
_FEWEST_PAIRS = 16

PlayerValues = Float[Tensor, " player"]


@dataclass(slots=True)
class _Moments:
    """Running sums over pairs of permutations, float64."""

    total: PlayerValues
    squares: PlayerValues
    pairs: int = 0
    done: bool = False

    def add(self, marginals: Float[Tensor, "pair player"]) -> None:
        self.total += marginals.sum(dim=0)
        self.squares += (marginals**2).sum(dim=0)
        self.pairs += len(marginals)

    def estimate(self) -> tuple[PlayerValues, PlayerValues]:
        mean = self.total / self.pairs
        if self.pairs < 2:
            return mean, torch.full_like(mean, math.nan)
        variance = ((self.squares - self.pairs * mean**2) / (self.pairs - 1)).clamp_min(0)
        return mean, (variance / self.pairs).sqrt()


def sample_values(
    game: Game, coalitions: Coalitions, numbers: list[int]
) -> dict[int, tuple[PlayerValues, PlayerValues]]:
    """Means and standard errors of the players' marginal contributions over random permutations.

    Permutations come in antithetic pairs, one the reverse of the other; a pair's mean is one observation, and the
    standard error is that of the mean of these. Each permutation's contributions sum to U(A) - U(0). Rows with one
    seed share the permutations and the logits; a row with a tolerance stops by its own values alone, so that its
    answer does not depend on the rows beside it.

    Args:
        game: the game.
        coalitions: of the image that the rows share.
        numbers: the rows.

    Returns:
        (values, standard errors) of each row, float64.
    """
    found = {}
    for seed in dict.fromkeys(game.rows[number].seed for number in numbers):
        players = [number for number in numbers if game.rows[number].seed == seed]
        moments = {number: _start(game) for number in players}
        for ranks in _permutation_pairs(game, seed, max(game.rows[n].effort.permutations for n in players)):
            going = [number for number in players if not moments[number].done]
            if not going:
                break
            logits = coalitions.logits(_prefixes(ranks).to(coalitions.everything.dtype))
            for number in going:
                values = _values_along(game, coalitions, number, logits, ranks)
                _observe(moments[number], values, ranks, game.rows[number].effort)
        found.update({number: moments[number].estimate() for number in players})
    return found


def _start(game: Game) -> _Moments:
    nothing = torch.zeros(game.players, dtype=torch.float64, device=game.images.device)
    return _Moments(nothing, nothing.clone())


def _permutation_pairs(game: Game, seed: int, permutations: int) -> Iterator[Int[Tensor, "two_pairs player"]]:
    """Blocks of permutations, each as the place of every player in it; the second half reverses the first.

    The block's size depends on the number of players alone: the same seed draws the same on every machine.
    """
    players = game.players
    at_once = max(1, _COALITIONS_AT_ONCE // (2 * (players - 1)))
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, permutations // 2, at_once):
        pairs = min(at_once, permutations // 2 - start)
        places = torch.rand(pairs, players, generator=generator).argsort(dim=1)
        yield torch.cat((places, players - 1 - places)).to(game.images.device)


def _prefixes(places: Int[Tensor, "permutation player"]) -> Tensor:
    """The coalitions that form while the players join one by one, without the first (empty) and the last (all)."""
    players = places.shape[1]
    joined = torch.arange(1, players, device=places.device)
    return (places[:, None, :] < joined[:, None]).flatten(0, 1)


def _values_along(
    game: Game, coalitions: Coalitions, number: int, logits: Tensor, places: Int[Tensor, "permutation player"]
) -> Float[Tensor, "permutation size"]:
    """A row's utility of no player, one, two and so on to all, along each permutation."""
    count = len(places)
    between = game.paid(number, logits).double().unflatten(0, (count, -1))
    first, last = (
        game.paid(number, ends).double().expand(count, 1) for ends in (coalitions.nothing, coalitions.everything)
    )
    return torch.cat((first, between, last), dim=1)


def _observe(
    moments: _Moments,
    values: Float[Tensor, "permutation size"],
    places: Int[Tensor, "permutation player"],
    effort: Effort,
) -> None:
    """Adds what each player brought as it joined, and decides whether that is enough."""
    marginals = values.diff(dim=1).gather(1, places)
    forward, backward = marginals.chunk(2)
    wanted = effort.permutations // 2
    moments.add(((forward + backward) / 2)[: wanted - moments.pairs])
    if effort.tolerance is not None and moments.pairs >= _FEWEST_PAIRS:
        moments.done = bool((moments.estimate()[1] <= effort.tolerance).all())
    moments.done |= moments.pairs >= wanted


def enumerate_values(
    game: Game, coalitions: Coalitions, numbers: list[int]
) -> dict[int, tuple[PlayerValues, PlayerValues]]:
    """The exact Shapley values, from all 2^d coalitions; every standard error is zero.

    Args:
        game: the game.
        coalitions: of the image that the rows share.
        numbers: the rows.

    Returns:
        (values, zeros) of each row, float64.
    """
    device, players = game.images.device, game.players
    members = torch.arange(2**players, device=device)
    bits = 2 ** torch.arange(players, device=device)
    present = (members[:, None] & bits) > 0
    logits = coalitions.logits(present.to(coalitions.everything.dtype))
    size = present.sum(dim=1)
    weights = torch.tensor(
        [1 / (players * math.comb(players - 1, count)) for count in range(players)], device=device, dtype=torch.float64
    )
    found = {}
    for number in numbers:
        worth = game.paid(number, logits).double()
        values = torch.stack(
            [
                (weights[size[without]] * (worth[without + bit] - worth[without])).sum()
                for bit, without in ((int(bits[player]), members[~present[:, player]]) for player in range(players))
            ]
        )
        found[number] = (values, torch.zeros_like(values))
    return found
