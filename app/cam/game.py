"""The cooperative game: the utility of images and activations that a method has masked."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.cam.chunks import Checkpoint, chunks, images_at_once, no_checkpoint, rows_at_once
from app.cam.split import SplitNetwork
from app.cam.state import SplitState
from app.cam.utilities import Logits, Utility, Values, values_of_rows
from app.cam.work import SamplingOptions


@dataclass(frozen=True, slots=True)
class GameRow:
    """One row of a game.

    Attributes:
        image_index: which of the game's images.
        target_class: c.
        utility: U.
        seed: of its random draws.
        sampling: options of the methods that sample or integrate.
    """

    image_index: int
    target_class: int
    utility: Utility
    seed: int = 0
    sampling: SamplingOptions = field(default_factory=SamplingOptions)


class PassCounter(Counter[int]):
    """Forward passes by row."""

    def add(self, rows: Iterable[int], count: int) -> None:
        """Adds passes to rows, as often as each is named."""
        for row in rows:
            self[row] += count


@dataclass(frozen=True, slots=True)
class Game:
    """The games of some rows; rows of one image share whatever is computed for it.

    Attributes:
        split: the network.
        images: normalised inputs.
        states: one row an image.
        rows: the rows.
        values: U(A) of each row.
        extra_passes: counts, by row, the images that pass through the whole network besides the row's own.
        checkpoint: called between chunks of a long computation; it may raise to abandon it.
    """

    split: SplitNetwork
    images: Float[Tensor, "image colour height width"]
    states: SplitState
    rows: tuple[GameRow, ...]
    values: Values
    extra_passes: PassCounter
    checkpoint: Checkpoint = no_checkpoint

    @property
    def players(self) -> int:
        """d, the positions of the layer's grid."""
        return self.split.grid.height * self.split.grid.width

    def by_image(self) -> Iterator[tuple[SplitState, list[int]]]:
        """Each image's state, of one row, and the numbers of the rows that are about it."""
        for image in dict.fromkeys(row.image_index for row in self.rows):
            yield self.state_of(image), [number for number, row in enumerate(self.rows) if row.image_index == image]

    def state_of(self, image: int) -> SplitState:
        """One image's state, of one row."""
        return self.states.take(self._index([image]))

    def row_states(self) -> SplitState:
        """The state of each row."""
        return self.states.take(self._index([row.image_index for row in self.rows]))

    def utility_of(self, numbers: list[int], logits: Logits) -> Values:
        """U of logits that come one for each of some rows."""
        rows = [self.rows[number] for number in numbers]
        targets = self._index([row.target_class for row in rows])
        return values_of_rows(logits, targets, [row.utility for row in rows])

    def row_utility(self, number: int, logits: Logits) -> Values:
        """One row's utility of any number of logits."""
        row = self.rows[number]
        return row.utility.of(logits, self._index([row.target_class]).expand(len(logits)))

    def run_head(
        self,
        state: SplitState,
        count: int,
        version: Callable[[Tensor, Int[Tensor, " some"]], Tensor],
        numbers: list[int],
        read: Callable[[SplitState], Tensor] | None = None,
    ) -> Float[Tensor, "count output"]:
        """Runs the head alone on `count` versions of one image's activations, in chunks.

        Args:
            state: of one row.
            count: how many versions.
            version: makes those with the given numbers out of the activations, (some, channel, height, width).
            numbers: the rows whose passes are counted.
            read: runs the head and reads something else than its logits.
        """
        read = read or self.split.head
        self.count_head_rows(numbers, count)
        device = state.activations.device
        outputs = []
        with torch.no_grad():
            for chunk in chunks(range(count), rows_at_once(state.activations)):
                self.checkpoint()
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
            numbers: the rows whose passes are counted.
        """
        self.extra_passes.add(numbers, count)
        logits = []
        for chunk in chunks(range(count), images_at_once(self.images)):
            self.checkpoint()
            masked = self.images[image] * masks(slice(chunk[0], chunk[-1] + 1))[:, None]
            logits.append(self.split.logits(masked))
        return torch.cat(logits)

    def count_head_rows(self, numbers: Iterable[int], count: int) -> None:
        """Counts passes for rows whose head ran, where that is a whole forward pass."""
        self.extra_passes.add(numbers, self.split.passes_of_head_rows(count))

    def _index(self, numbers: list[int]) -> Int[Tensor, " number"]:
        return torch.tensor(numbers, device=self.states.activations.device)
