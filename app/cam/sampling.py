"""Shapley values of one image's players: enumerated for few of them, sampled over permutations for more."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.cam.coalitions import Coalitions
from app.cam.game import Game
from app.cam.utilities import UtilityFunction
from app.cam.work import SamplingOptions

# Up to 2^12 = 4,096 coalitions are all of them; 256 permutations of 13 players meet 3,072.
MOST_ENUMERATED = 12
# Coalitions whose logits, 1,000 classes say, stay in the processor's cache.
_COALITIONS_AT_ONCE = 768
# A standard error from fewer pairs is itself too uncertain to stop at.
_FEWEST_PAIRS = 16

PlayerValues = Float[Tensor, " player"]


@dataclass(slots=True)
class Moments:
    """Running sums over pairs of permutations, float64."""

    total: PlayerValues
    squares: PlayerValues
    pairs: int = 0
    done: bool = False

    @classmethod
    def of(cls, players: int, device: torch.device) -> "Moments":
        """Of no pairs yet."""
        zeros = torch.zeros(players, dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone())

    def add(self, marginals: Float[Tensor, "pair player"]) -> None:
        """Adds the contributions of some pairs."""
        self.total += marginals.sum(dim=0)
        self.squares += (marginals**2).sum(dim=0)
        self.pairs += len(marginals)

    def observe(
        self,
        values: Float[Tensor, "permutation size"],
        places: Int[Tensor, "permutation player"],
        sampling: SamplingOptions,
    ) -> None:
        """Adds what each player contributed as it joined, and decides whether that is enough."""
        forward, backward = values.diff(dim=1).gather(1, places).chunk(2)
        wanted = sampling.permutations // 2
        self.add(((forward + backward) / 2)[: wanted - self.pairs])
        if sampling.tolerance is not None and self.pairs >= _FEWEST_PAIRS:
            self.done = bool((self.estimate()[1] <= sampling.tolerance).all())
        self.done |= self.pairs >= wanted

    def estimate(self) -> tuple[PlayerValues, PlayerValues]:
        """Means and standard errors, NaN where one pair tells nothing of them."""
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
        moments = {number: Moments.of(game.players, game.images.device) for number in players}
        for ranks in _permutation_pairs(game, seed, max(game.rows[n].sampling.permutations for n in players)):
            unfinished = [number for number in players if not moments[number].done]
            if not unfinished:
                break
            logits = coalitions.logits(prefixes(ranks).to(coalitions.full_logits.dtype))
            for number in unfinished:
                utility = partial(game.row_utility, number)
                values = values_along(utility, coalitions.empty_logits, logits, coalitions.full_logits, ranks)
                moments[number].observe(values, ranks, game.rows[number].sampling)
        found.update({number: moments[number].estimate() for number in players})
    return found


def _permutation_pairs(game: Game, seed: int, permutations: int) -> Iterator[Int[Tensor, "two_pairs player"]]:
    """Blocks of permutations, each as the place of every player in it; the second half reverses the first.

    The block's size depends on the number of players alone: the same seed draws the same on every machine.
    """
    players = game.players
    at_once = pairs_at_once(players)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, permutations // 2, at_once):
        pairs = min(at_once, permutations // 2 - start)
        places = torch.rand(pairs, players, generator=generator).argsort(dim=1)
        yield torch.cat((places, players - 1 - places)).to(game.images.device)


def pairs_at_once(players: int) -> int:
    """How many pairs of permutations make a block."""
    return max(1, _COALITIONS_AT_ONCE // (2 * (players - 1)))


def prefixes(places: Int[Tensor, "permutation player"]) -> Tensor:
    """The coalitions that form while the players join one by one, without the first (empty) and the last (all)."""
    players = places.shape[1]
    joined = torch.arange(1, players, device=places.device)
    return (places[:, None, :] < joined[:, None]).flatten(0, 1)


def values_along(
    utility: UtilityFunction,
    empty_logits: Float[Tensor, "1 class"],
    between: Float[Tensor, "coalition class"],
    full_logits: Float[Tensor, "1 class"],
    places: Int[Tensor, "permutation player"],
) -> Float[Tensor, "permutation size"]:
    """A utility of no player, one, two and so on to all, along each permutation.

    Args:
        utility: the utility.
        empty_logits: the logits of no player.
        between: those of the coalitions that form; see `prefixes`.
        full_logits: those of all players.
        places: the permutations, as the place of every player in each.
    """
    count = len(places)
    first, last = (utility(ends).double().expand(count, 1) for ends in (empty_logits, full_logits))
    return torch.cat((first, utility(between).double().unflatten(0, (count, -1)), last), dim=1)


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
    logits = coalitions.logits(present.to(coalitions.full_logits.dtype))
    size = present.sum(dim=1)
    weights = torch.tensor(
        [1 / (players * math.comb(players - 1, count)) for count in range(players)], device=device, dtype=torch.float64
    )
    found = {}
    for number in numbers:
        game.checkpoint()
        worth = game.row_utility(number, logits).double()
        values = torch.stack(
            [
                (weights[size[without]] * (worth[without + bit] - worth[without])).sum()
                for bit, without in ((int(bits[player]), members[~present[:, player]]) for player in range(players))
            ]
        )
        found[number] = (values, torch.zeros_like(values))
    return found
