"""A picture as the service holds it between decoding and reply."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.imaging.overlay import Canvas
from app.imaging.pixels import Depth
from app.imaging.reading import DecodeSpec
from app.imaging.shared import SharedBytes
from app.imaging.view import View

# Of a network's input before normalisation, HWC: 8 bits, [0, 255]; or the levels of a picture of more bits.
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

# Of the range of a deep picture: 12 bits in a file of 16 fill a sixteenth.
_LITTLE = 1 / 8


def pixels_of(view: bytearray | bytes, spec: DecodeSpec, *, is_deep: bool) -> Pixels:
    """The pixels in what was read of a picture; see `app.imaging.reading.ReadImage.view`.

    Raises:
        ValueError: they are too few or too many, or no numbers.
    """
    channels, (height, width) = len(spec.mean), spec.input_size
    if not is_deep:
        return np.frombuffer(view, np.uint8).reshape(height, width, channels)
    levels = np.frombuffer(view, np.float32).reshape(channels, height, width)
    if not np.isfinite(levels).all():
        raise ValueError("not all pixels are numbers")
    return levels.transpose(1, 2, 0)


def view_bytes(spec: DecodeSpec, *, is_deep: bool) -> int:
    """How long such a view is."""
    return math.prod(spec.input_size) * len(spec.mean) * (np.dtype(np.float32).itemsize if is_deep else 1)


def depth_warnings(depth: Depth | None, max_value: int) -> tuple[str, ...]:
    """What a caller should know of how a picture of more than 8 bits was read."""
    if depth is None:
        return ()
    if depth.clipped:
        return (
            f"{depth.clipped:,} pixels of this 16-bit picture are above {max_value:,}, which the operator has set as "
            f"the highest value (preprocessing.max_value), and were read as that; the highest is {depth.highest:,}",
        )
    if depth.highest < _LITTLE * max_value:
        return (
            f"this 16-bit picture uses little of its range: its highest value is {depth.highest:,} of {max_value:,}; "
            "if it holds fewer bits, the operator can set preprocessing.max_value (4095 for 12 bits)",
        )
    return ()


@dataclass(frozen=True, slots=True)
class OverlayBase:
    """The upright original, shrunk to the size of the overlays.

    Attributes:
        size: (width, height) in px.
        memory: HWC, RGB, 8 bits a channel; shared with the processes that draw.
    """

    size: tuple[int, int]
    memory: SharedBytes


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """A posted picture, ready for the network.

    Attributes:
        format: its name in `app.imaging.formats.FORMATS`.
        width: of the upright original in px.
        height: of the upright original in px.
        view: where the network's input lies in the original.
        pixels: the network's input before normalisation, HWC; see `pixels_of`.
        depth: how a picture of more than 8 bits uses its range; None for others.
        base: what overlays are laid on; None where none is wanted.
    """

    format: str
    width: int
    height: int
    view: View
    pixels: Pixels
    depth: Depth | None
    base: OverlayBase | None

    @property
    def canvas(self) -> Canvas | None:
        """Where heatmaps lie in the base."""
        return Canvas(self.base.size, (self.width, self.height), self.view.box) if self.base else None
