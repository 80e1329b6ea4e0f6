"""A picture as the service holds it between decoding and reply."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.imaging.reading import Order, ReadImage
from app.imaging.view import View, make_view


@dataclass(frozen=True, slots=True)
class Picture:
    """What was made of a posted file.

    Attributes:
        format: "JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF" or "AVIF".
        width: of the upright original in px.
        height: of the upright original in px.
        view: where the network's input lies in the original.
        pixels: the network's input before normalisation, HWC uint8, RGB, [0, 255].
        base: the original shrunk to the size of the overlays, HWC uint8, RGB, [0, 255]; None where none is wanted.
    """

    format: str
    width: int
    height: int
    view: View
    pixels: npt.NDArray[np.uint8]
    base: npt.NDArray[np.uint8] | None


def picture_of(read: ReadImage, order: Order) -> Picture:
    """The arrays of a picture that was read in this process."""
    base = np.array(read.base) if read.base is not None else None
    view = make_view(read.width, read.height, order, order.fit)
    return Picture(read.format, read.width, read.height, view, np.array(read.view), base)
