"""What part of a picture a network sees, and how that part becomes the network's input."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image

from app.imaging.upright import Box

Fit = Literal["crop", "stretch", "pad"]
FITS: tuple[Fit, ...] = ("crop", "stretch", "pad")

MAX_RESIZED_PIXELS = 16_000_000

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_WIDEST_FILTER_SUPPORT = 3


class ViewSpec(Protocol):
    """The part of `service_models.spec.Preprocessing` that the view needs; its module imports torch, this must not."""

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input in px."""

    @property
    def resize_size(self) -> int:
        """Length of the short side before the crop in px."""

    @property
    def interpolation(self) -> str:
        """The filter of the resize: nearest, bilinear, bicubic or lanczos."""

    @property
    def mean(self) -> tuple[float, ...]:
        """The training mean of each channel, for values in [0, 1]."""


@dataclass(frozen=True, slots=True)
class View:
    """The rectangle of the upright original that the network's input shows.

    Attributes:
        fit: how the picture was brought to the input's shape.
        box: (left, top, right, bottom) in px of the upright original; `pad` exceeds the picture.
        input_size: (height, width) of the network's input in px.
    """

    fit: Fit
    box: Box
    input_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Placement:
    """The whole picture resized, and where in it the input's top left corner lies; negative for `pad`."""

    width: int
    height: int
    left: int
    top: int


def make_view(width: int, height: int, preprocessing: ViewSpec, fit: Fit = "crop") -> View:
    """Computes what part of a picture the network sees.

    `crop` is torchvision's evaluation view: the short side is resized to `resize_size`, the long one to
    int(resize_size * long / short), and the centre is cut out at torchvision's rounding of the offset.
    `stretch` takes the whole picture and loses its aspect ratio. `pad` takes the whole picture, scaled to
    fit and centred.

    Args:
        width: of the upright original in px.
        height: of the upright original in px.
        preprocessing: the network's evaluation view.
        fit: "crop", "stretch" or "pad".

    Returns:
        The view; its box uses the actual horizontal and vertical scales, which rounding sets slightly apart.

    Raises:
        ValueError: `crop` with a `resize_size` that does not cover the input, or an unknown fit.
    """
    rows, columns = preprocessing.input_size
    place = _place(width, height, preprocessing, fit)
    box = (
        place.left * width / place.width,
        place.top * height / place.height,
        (place.left + columns) * width / place.width,
        (place.top + rows) * height / place.height,
    )
    return View(fit, box, preprocessing.input_size)


def resized_size(width: int, height: int, preprocessing: ViewSpec, fit: Fit = "crop") -> tuple[int, int]:
    """The (width, height) in px to which `render_view` brings the whole of an original of this size."""
    place = _place(width, height, preprocessing, fit)
    return place.width, place.height


def render_view(
    image: Image.Image,
    preprocessing: ViewSpec,
    fit: Fit = "crop",
    *,
    size: tuple[int, int] | None = None,
    box: Box | None = None,
    fill: float | tuple[int, ...] | None = None,
    max_resized_pixels: int = MAX_RESIZED_PIXELS,
) -> Image.Image:
    """Renders what the network sees; `crop` is bit-identical to torchvision's transforms on PIL images.

    A thin picture grows without bounds when its short side is resized: where the whole would pass
    `max_resized_pixels`, only the crop is resized, which is equal within 1/255. `stretch` and `pad` keep
    their intermediate pictures under it as well.

    Args:
        image: the upright original, mode RGB or F, or a smaller rendering of it.
        preprocessing: the network's evaluation view.
        fit: "crop", "stretch" or "pad"; the letterbox of `pad` takes the training mean as near as 8 bits
            come: within 0.002 / std of zero after normalisation.
        size: (width, height) of the original in px, where `image` is smaller.
        box: where the whole original lies in `image`, in its px; by default it is all of it.
        fill: what the letterbox takes in place of the training mean.
        max_resized_pixels: how many pixels the resized whole, or an intermediate picture, may have.

    Returns:
        The mode of `image`, and the size of the network's input.

    Raises:
        ValueError: as for `make_view`.
    """
    rows, columns = preprocessing.input_size
    resample = _FILTERS[preprocessing.interpolation]
    size, box = size or image.size, box or (0, 0, *image.size)
    place = _place(*size, preprocessing, fit)
    if fit == "crop" and place.width * place.height > max_resized_pixels:
        seen_box = _scaled(make_view(*size, preprocessing, fit).box, size, box)
        return _resize_box(image, seen_box, (columns, rows), resample)
    if fit != "crop" and place.width * image.height > max_resized_pixels:
        # Pillow may scale the width first, and thereby widen every row of a tall and thin picture.
        image = image.resize((image.width, place.height), resample, (0, box[1], image.width, box[3]))
        box = (box[0], 0, box[2], place.height)
    resized = image.resize((place.width, place.height), resample, box)
    seen = Image.new(image.mode, (columns, rows), _mean_colour(preprocessing) if fill is None else fill)
    seen.paste(resized, (-place.left, -place.top))
    return seen


def _place(width: int, height: int, preprocessing: ViewSpec, fit: Fit) -> _Placement:
    rows, columns = preprocessing.input_size
    if fit == "stretch":
        return _Placement(columns, rows, 0, 0)
    if fit == "pad":
        scale = min(columns / width, rows / height)
        resized_width = max(1, round(width * scale))
        resized_height = max(1, round(height * scale))
        return _Placement(
            resized_width, resized_height, -((columns - resized_width) // 2), -((rows - resized_height) // 2)
        )
    if fit != "crop":
        raise ValueError(f"unknown fit {fit!r}; known are {', '.join(FITS)}")
    return _place_crop(width, height, preprocessing)


def _place_crop(width: int, height: int, preprocessing: ViewSpec) -> _Placement:
    rows, columns = preprocessing.input_size
    resize_size = preprocessing.resize_size
    if resize_size < max(rows, columns):
        raise ValueError(f"resize_size {resize_size} does not cover the input of {rows} x {columns} px")
    long_side = int(resize_size * max(width, height) / min(width, height))
    resized_width, resized_height = (resize_size, long_side) if width <= height else (long_side, resize_size)
    # Halves are rounded to even, as torchvision's centre crop rounds them.
    left = round((resized_width - columns) / 2)
    top = round((resized_height - rows) / 2)
    return _Placement(resized_width, resized_height, left, top)


def _scaled(part: Box, size: tuple[int, int], box: Box) -> Box:
    """Where a part of the original lies in a picture that shows the whole original in `box`."""
    x, y = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
    return box[0] + part[0] * x, box[1] + part[1] * y, box[0] + part[2] * x, box[1] + part[3] * y


def _resize_box(image: Image.Image, box: Box, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    # Pillow keeps the box in single precision, too coarse far along a thin picture: cut out first what the
    # filter can reach, so that the coordinates are small.
    left, top, right, bottom = box
    margin_x = math.ceil(_WIDEST_FILTER_SUPPORT * max(1.0, (right - left) / size[0])) + 1
    margin_y = math.ceil(_WIDEST_FILTER_SUPPORT * max(1.0, (bottom - top) / size[1])) + 1
    x = max(0, math.floor(left) - margin_x)
    y = max(0, math.floor(top) - margin_y)
    end_x = min(image.width, math.ceil(right) + margin_x)
    end_y = min(image.height, math.ceil(bottom) + margin_y)
    reachable = image.crop((x, y, end_x, end_y))
    return reachable.resize(size, resample, box=(left - x, top - y, right - x, bottom - y))


def _mean_colour(preprocessing: ViewSpec) -> tuple[int, int, int]:
    levels = tuple(round(255 * channel) for channel in preprocessing.mean)
    red, green, blue = levels if len(levels) == 3 else levels * 3
    return red, green, blue
