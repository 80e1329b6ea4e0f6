"""How many rows pass at once: enough to fill the device, never so many that they fill its memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

Item = TypeVar("Item")
Checkpoint = Callable[[], None]
"""Called between chunks of long work; it may raise to abandon it."""

# Rows of activations that are held at once, in elements: 64 rows of 2,048 x 7 x 7, 8 of 256 x 56 x 56.
_ELEMENTS = 64 * 2048 * 7 * 7
# The head takes so many times fewer, since other requests pass only between chunks: a row of an early layer takes a
# processor a tenth of a second and more, and its derivatives several times as long.
_HEAD_SHARE = {"cpu": 4, "cuda": 1}
_DERIVATIVE_SHARE = {"cpu": 16, "cuda": 1}
_DEEP_DERIVATIVES = {"cpu": 1, "cuda": 64}
# Whole images. On the CPU small batches are the faster ones: their feature maps stay under the size (32 MiB) from
# which the allocator maps, and the kernel clears, fresh pages.
IMAGES_AT_ONCE = {"cpu": 8, "cuda": 64}
# Chunks are made so much smaller, step by step, where a single row of work does not fit the memory.
CHUNK_DIVISORS = (2, 4, 8, 16, 64)
_divisor = ContextVar("divisor", default=1)


def no_checkpoint() -> None:
    """The checkpoint that does nothing."""


@contextmanager
def smaller_chunks(divisor: int) -> Iterator[None]:
    """Makes all chunks so many times smaller, down to one row, for work that does not fit the memory."""
    token = _divisor.set(divisor)
    try:
        yield
    finally:
        _divisor.reset(token)


def rows_held_at_once(elements: int) -> int:
    """How many rows of so many activations each are answered together."""
    return max(1, _ELEMENTS // max(1, elements) // _divisor.get())


def rows_at_once(activations: Float[Tensor, "row channel height width"]) -> int:
    """How many rows of such activations the head takes."""
    return max(1, rows_held_at_once(activations[0].numel()) // _HEAD_SHARE[activations.device.type])


def rows_differentiated_at_once(activations: Float[Tensor, "row channel height width"], *, deep: bool) -> int:
    """How many rows of such activations a head, deep or not, is differentiated for."""
    device = activations.device.type
    most = max(1, rows_held_at_once(activations[0].numel()) // _DERIVATIVE_SHARE[device])
    return min(most, _DEEP_DERIVATIVES[device]) if deep else most


def images_at_once(images: Float[Tensor, "batch colour height width"]) -> int:
    """How many images pass through the whole network as one batch."""
    return max(1, IMAGES_AT_ONCE[images.device.type] // _divisor.get())


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cuts a sequence into consecutive parts of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
