"""The logits of any coalition of players: the head on the activations of those who take part."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.game import Game
from app.cam.split import SplitNetwork, State
from app.cam.structure import last_layer

# How far the sum over players may miss the logits of all of them, relative to the largest.
_TOLERANCE = 1e-3


class Coalitions:
    """One image's coalitions.

    Where the head adds up what the players bring (nothing before global average pooling mixes positions), the logits
    of any coalition are a sum of one term a player, and the head runs once a player instead of once a coalition.
    """

    def __init__(self, game: Game, state: State, numbers: list[int]) -> None:
        """Prepares the coalitions of an image.

        Args:
            game: of which the image is one.
            state: of the image, one row.
            numbers: the rows on whose account the head runs.
        """
        self._game, self._state, self._numbers = game, state, numbers
        split = game.split
        with torch.no_grad():
            self.nothing: Float[Tensor, "1 class"] = split.silent(state)
            self.everything: Float[Tensor, "1 class"] = split.head(state)
        self._terms = self._find_terms() if split.additive else None

    @property
    def adds_up(self) -> bool:
        """Whether the short way is taken."""
        return self._terms is not None

    def logits(self, coalitions: Float[Tensor, "coalition player"]) -> Float[Tensor, "coalition class"]:
        """The logits of coalitions given as rows of 0 and 1, players in the grid's reading order."""
        if self._terms is None:
            return self._run_head(coalitions)
        self._game.pause()
        return torch.addmm(self.nothing, coalitions, self._terms)

    def _run_head(
        self, coalitions: Float[Tensor, "coalition player"], read: Callable[[State], Tensor] | None = None
    ) -> Float[Tensor, "coalition output"]:
        masks = coalitions.reshape(-1, 1, *self._state.activations.shape[2:])
        return self._game.run_head(
            self._state, len(masks), lambda rows, versions: rows * masks[versions], self._numbers, read
        )

    def _find_terms(self) -> Float[Tensor, "player class"] | None:
        """What each player adds to the logits; None where these do not add up to the logits of all."""
        activations, classifier = self._state.activations, self._game.split.classifier
        if classifier is not None:
            maps = activations[0].flatten(1)
            return maps.T @ classifier.weight.T / maps.shape[1]
        terms = self._terms_of(torch.eye(self._game.players, device=activations.device, dtype=activations.dtype))
        missed = (self.nothing + terms.sum(dim=0) - self.everything).abs().max()
        return terms if missed <= _TOLERANCE * self.everything.abs().max() else None

    def _terms_of(self, alone: Float[Tensor, "player player"]) -> Float[Tensor, "player class"]:
        """The logits of each player alone, less those of nobody.

        Taken before the last linear layer where there is one: the difference of two logits would carry the rounding of
        all that cancels in them, once for each player.
        """
        split, state = self._game.split, self._state
        nobody = last_layer(split, state.with_activations(torch.zeros_like(state.activations)))
        if nobody is None:
            return self._run_head(alone) - self.nothing
        features = self._run_head(alone, partial(_features, split))
        return (features - nobody.features) @ nobody.weights.T


def _features(split: SplitNetwork, state: State) -> Tensor:
    layer = last_layer(split, state)
    assert layer is not None
    return layer.features
