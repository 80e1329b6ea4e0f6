"""How many rows pass at once: enough to fill the device, never so many that they fill its memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

Item = TypeVar("Item")
Pause = Callable[[], None]
"""Called between chunks of long work; it may raise to abandon it."""

# Rows of activations that the head takes at once, in elements: 64 rows of 2,048 x 7 x 7, 8 of 256 x 56 x 56.
_HEAD_ELEMENTS = 64 * 2048 * 7 * 7
# Whole images. On the CPU small batches are the faster ones: their feature maps stay under the size (32 MiB) from
# which the allocator maps, and the kernel clears, fresh pages.
IMAGES_AT_ONCE = {"cpu": 8, "cuda": 64}
# Chunks are made so much smaller, step by step, where a single row of work does not fit the memory.
SMALLER = (2, 4, 8, 16, 64)
_divisor = ContextVar("divisor", default=1)


def go_on() -> None:
    """The pause that does nothing."""


@contextmanager
def smaller_chunks(divisor: int) -> Iterator[None]:
    """Makes all chunks so many times smaller, down to one row, for work that does not fit the memory."""
    token = _divisor.set(divisor)
    try:
        yield
    finally:
        _divisor.reset(token)


def rows_at_once(activations: Float[Tensor, "row channel height width"]) -> int:
    """How many rows of such activations the head takes."""
    return max(1, _HEAD_ELEMENTS // max(1, activations[0].numel()) // _divisor.get())


def images_at_once(images: Float[Tensor, "batch 3 height width"]) -> int:
    """How many images pass through the whole network as one batch."""
    return max(1, IMAGES_AT_ONCE[images.device.type] // _divisor.get())


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cuts a sequence into consecutive parts of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
