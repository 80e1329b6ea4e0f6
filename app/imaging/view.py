"""What part of a picture a network sees, and how that part becomes the network's input."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image

from service_models.spec import Preprocessing

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


@dataclass(frozen=True, slots=True)
class View:
    """The rectangle of the upright original that the network's input shows.

    Attributes:
        fit: how the picture was brought to the input's shape.
        box: (left, top, right, bottom) in px of the upright original; `pad` exceeds the picture.
        input_size: (height, width) of the network's input in px.
    """

    fit: Fit
    box: tuple[float, float, float, float]
    input_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Placement:
    """The whole picture resized, and where in it the input's top left corner lies; negative for `pad`."""

    width: int
    height: int
    left: int
    top: int


def make_view(width: int, height: int, preprocessing: Preprocessing, fit: Fit = "crop") -> View:
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


def render_view(
    image: Image.Image,
    preprocessing: Preprocessing,
    fit: Fit = "crop",
    *,
    max_resized_pixels: int = MAX_RESIZED_PIXELS,
) -> torch.Tensor:
    """Renders what the network sees; `crop` is bit-identical to torchvision's transforms on PIL images.

    A thin picture grows without bounds when its short side is resized: where the whole would pass
    `max_resized_pixels`, only the crop is resized, which is equal within 1/255. `stretch` and `pad` keep
    their intermediate pictures under it as well.

    Args:
        image: the upright original, mode RGB.
        preprocessing: the network's evaluation view.
        fit: "crop", "stretch" or "pad"; the letterbox of `pad` takes the training mean as near as 8 bits
            come: within 0.002 / std of zero after normalisation.
        max_resized_pixels: how many pixels the resized whole, or an intermediate picture, may have.

    Returns:
        HWC uint8 on the CPU, [0, 255], (*preprocessing.input_size, 3).

    Raises:
        ValueError: as for `make_view`.
    """
    rows, columns = preprocessing.input_size
    resample = _FILTERS[preprocessing.interpolation]
    place = _place(*image.size, preprocessing, fit)
    if fit == "crop" and place.width * place.height > max_resized_pixels:
        box = make_view(*image.size, preprocessing, fit).box
        seen = _resize_box(image, box, (columns, rows), resample)
    else:
        if fit != "crop" and place.width * image.height > max_resized_pixels:
            # Pillow may scale the width first, and thereby widen every row of a tall and thin picture.
            image = image.resize((image.width, place.height), resample)
        resized = image.resize((place.width, place.height), resample)
        seen = Image.new("RGB", (columns, rows), _mean_colour(preprocessing))
        seen.paste(resized, (-place.left, -place.top))
    return torch.from_numpy(np.array(seen))


def normalise(batch: torch.Tensor, preprocessing: Preprocessing, device: torch.device | str) -> torch.Tensor:
    """Makes the network's input of rendered views: (x / 255 - mean) / std for each channel.

    Args:
        batch: NHWC uint8, [0, 255].
        preprocessing: gives mean and deviation, for values in [0, 1].
        device: where the network runs; the bytes travel there before they become floats.

    Returns:
        NCHW float32 on `device`; on the CPU bit-identical to torchvision's ToTensor and Normalize.
    """
    mean, std = _channel_statistics(preprocessing, torch.device(device))
    planes = batch.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
    return planes.to(torch.float32).div_(255).sub_(mean).div_(std)


def denormalise(x: torch.Tensor, preprocessing: Preprocessing) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Makes a picture of a network's input: round(255 * (x * std + mean)), clipped.

    Args:
        x: CHW float32, normalised; e.g. an explanation map, whose masked pixels (0) become the mean colour.
        preprocessing: gives mean and deviation, for values in [0, 1].

    Returns:
        HWC uint8, [0, 255].
    """
    mean, std = _channel_statistics(preprocessing, x.device)
    levels = (x.detach() * std + mean).mul_(255).round_().clamp_(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def _place(width: int, height: int, preprocessing: Preprocessing, fit: Fit) -> _Placement:
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


def _place_crop(width: int, height: int, preprocessing: Preprocessing) -> _Placement:
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


def _resize_box(
    image: Image.Image,
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    resample: Image.Resampling,
) -> Image.Image:
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


def _mean_colour(preprocessing: Preprocessing) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in preprocessing.mean)
    return red, green, blue


@lru_cache(maxsize=64)
def _channel_statistics(preprocessing: Preprocessing, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.tensor(preprocessing.mean, dtype=torch.float32, device=device)
    std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device)
    return mean.view(3, 1, 1), std.view(3, 1, 1)
