"""The cooperative game: what the utility pays for images and activations that a method has masked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.cam.chunks import Pause, chunks, go_on, images_at_once, rows_at_once
from app.cam.split import SplitNetwork, State
from app.cam.utilities import Logits, Utility, Values, values_of_rows


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard the methods that sample or integrate try.

    Attributes:
        permutations: for `shapley-sampling`, at most; even, since they come in antithetic pairs.
        tolerance: for `shapley-sampling`: it stops when no player's standard error is larger, in units of the
            utility; None never stops early.
        nodes: for `aumann-shapley`, of the Gauss-Legendre quadrature.
    """

    permutations: int = 256
    tolerance: float | None = None
    nodes: int = 8


@dataclass(frozen=True, slots=True)
class Work:
    """How much a method does for one image and target, besides the one pass that everything needs.

    Attributes:
        images: masked images through the whole network.
        head_rows: rows through the head alone; one with its derivatives counts as three.
        coalitions: coalitions whose logits are a sum over players.
        is_shared: whether all targets and utilities share it.
    """

    images: int = 0
    head_rows: int = 0
    coalitions: int = 0
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a game.

    Attributes:
        image: which of the game's images.
        target_class: c.
        utility: U.
        seed: of its random draws.
        effort: how hard to try.
    """

    image: int
    target_class: int
    utility: Utility
    seed: int = 0
    effort: Effort = Effort()


@dataclass(frozen=True, slots=True)
class Game:
    """The games of some rows; rows of one image share whatever is computed for it.

    Attributes:
        split: the network.
        images: normalised inputs.
        states: what the trunk left, one row an image.
        rows: who plays.
        values: U(A) of each row.
        pause: called between chunks of a long computation; it may raise to abandon it.
        extra_passes: images that passed through the whole network for a row, besides its own; counted here.
    """

    split: SplitNetwork
    images: Float[Tensor, "image 3 height width"]
    states: State
    rows: tuple[Row, ...]
    values: Values
    pause: Pause = go_on
    extra_passes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.extra_passes.extend([0] * (len(self.rows) - len(self.extra_passes)))

    @property
    def players(self) -> int:
        """d, the positions of the layer's grid."""
        return self.split.grid.height * self.split.grid.width

    def by_image(self) -> Iterator[tuple[State, list[int]]]:
        """Each image's state, of one row, and the numbers of the rows that play on it."""
        for image in dict.fromkeys(row.image for row in self.rows):
            yield self.state_of(image), [number for number, row in enumerate(self.rows) if row.image == image]

    def state_of(self, image: int) -> State:
        """One image's state, of one row."""
        return self.states.take(self._index([image]))

    def row_states(self) -> State:
        """The state of each row."""
        return self.states.take(self._index([row.image for row in self.rows]))

    def utility(self, logits: Logits) -> Values:
        """U of logits that come one a row."""
        targets = self._index([row.target_class for row in self.rows])
        return values_of_rows(logits, targets, [row.utility for row in self.rows])

    def paid(self, number: int, logits: Logits) -> Values:
        """What one row's utility pays for any number of logits."""
        row = self.rows[number]
        return row.utility.of(logits, self._index([row.target_class]).expand(len(logits)))

    def run_head(
        self,
        state: State,
        count: int,
        version: Callable[[Tensor, Int[Tensor, " some"]], Tensor],
        numbers: list[int],
        read: Callable[[State], Tensor] | None = None,
    ) -> Float[Tensor, "count output"]:
        """Runs the head alone on `count` versions of one image's activations, in chunks.

        Args:
            state: of one row.
            count: how many versions.
            version: makes those with the given numbers out of the activations, (some, channel, height, width).
            numbers: the rows on whose account it is.
            read: runs the head and reads something else than its logits.
        """
        read = read or self.split.head
        self.count_heads(numbers, count)
        device = state.activations.device
        outputs = []
        with torch.no_grad():
            for chunk in chunks(range(count), rows_at_once(state.activations)):
                self.pause()
                versions = torch.arange(chunk[0], chunk[-1] + 1, device=device)
                rows = state.take(torch.zeros_like(versions))
                outputs.append(read(rows.with_activations(version(rows.activations, versions))))
        return torch.cat(outputs)

    def run_network(
        self, image: int, masks: Callable[[slice], Float[Tensor, "some height width"]], count: int, numbers: list[int]
    ) -> Float[Tensor, "count class"]:
        """Runs the whole network on `count` masked versions of an image, in chunks; the masks are made as they go.

        Args:
            image: which.
            masks: makes the masks with the given numbers, [0, 1].
            count: how many.
            numbers: the rows on whose account it is.
        """
        self.count_passes(numbers, count)
        logits = []
        for chunk in chunks(range(count), images_at_once(self.images)):
            self.pause()
            masked = self.images[image] * masks(slice(chunk[0], chunk[-1] + 1))[:, None]
            logits.append(self.split.logits(masked))
        return torch.cat(logits)

    def count_heads(self, numbers: list[int], count: int) -> None:
        """Notes that the head ran for rows, where that is a whole forward pass."""
        if self.split.whole_head and self.split.classifier is None:
            self.count_passes(numbers, count)

    def count_passes(self, numbers: list[int], count: int) -> None:
        """Notes that rows took further forward passes."""
        for number in numbers:
            self.extra_passes[number] += count

    def _index(self, numbers: list[int]) -> Int[Tensor, " number"]:
        return torch.tensor(numbers, device=self.states.activations.device)
