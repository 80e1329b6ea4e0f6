"""The logits of any coalition of players: the head on the activations of those who take part."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.game import Game
from app.cam.split import SplitNetwork
from app.cam.state import SplitState

# How far the sum over players may miss the logits of all of them, relative to the largest.
_TOLERANCE = 1e-3


class Coalitions:
    """One image's coalitions.

    Where the head adds up what the players bring (nothing before global average pooling mixes positions), the logits
    of any coalition are a sum of one term a player, and the head runs once a player instead of once a coalition.
    """

    def __init__(self, game: Game, state: SplitState, numbers: list[int]) -> None:
        """Prepares the coalitions of an image.

        Args:
            game: of which the image is one.
            state: of the image, one row.
            numbers: the rows whose passes are counted.
        """
        self._game, self._state, self._numbers = game, state, numbers
        split = game.split
        with torch.no_grad():
            self.empty_logits: Float[Tensor, "1 class"] = split.empty_coalition_logits(state)
            self.full_logits: Float[Tensor, "1 class"] = split.head(state)
        self._terms = self._find_terms()

    def logits(self, coalitions: Float[Tensor, "coalition player"]) -> Float[Tensor, "coalition class"]:
        """The logits of coalitions given as rows of 0 and 1, players in the grid's reading order."""
        if self._terms is None:
            return self._run_head(coalitions)
        self._game.checkpoint()
        return torch.addmm(self.empty_logits, coalitions, self._terms)

    def _run_head(
        self, coalitions: Float[Tensor, "coalition player"], read: Callable[[SplitState], Tensor] | None = None
    ) -> Float[Tensor, "coalition output"]:
        masks = coalitions.reshape(-1, 1, *self._state.activations.shape[2:])
        return self._game.run_head(
            self._state, len(masks), lambda rows, versions: rows * masks[versions], self._numbers, read
        )

    def _find_terms(self) -> Float[Tensor, "player class"] | None:
        """What each player adds to the logits; None where these do not add up to the logits of all."""
        structure, activations = self._game.split.structure, self._state.activations
        known = structure.player_terms(self._state)
        if known is not None or not structure.additive:
            return known
        terms = self._terms_of(torch.eye(self._game.players, device=activations.device, dtype=activations.dtype))
        missed = (self.empty_logits + terms.sum(dim=0) - self.full_logits).abs().max()
        return terms if missed <= _TOLERANCE * self.full_logits.abs().max() else None

    def _terms_of(self, alone: Float[Tensor, "player player"]) -> Float[Tensor, "player class"]:
        """The logits of each player alone, less those of empty.

        Taken before the last linear layer where there is one: the difference of two logits would carry the rounding of
        all that cancels in them, once for each player.
        """
        split, state = self._game.split, self._state
        empty = split.last_layer(state.with_activations(torch.zeros_like(state.activations)))
        if empty is None:
            return self._run_head(alone) - self.empty_logits
        features = self._run_head(alone, partial(_features, split))
        return (features - empty.features) @ empty.weights.T


def _features(split: SplitNetwork, state: SplitState) -> Tensor:
    layer = split.last_layer(state)
    assert layer is not None
    return layer.features
