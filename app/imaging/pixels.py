"""Converts every mode of Pillow's that an accepted file can have to 8-bit RGB, or to grey of more bits."""

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from PIL import Image, TiffImagePlugin

from app.errors import ImageUnreadable

_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
MAX_LEVEL = 65535


@dataclass(frozen=True, slots=True)
class Depth:
    """How a picture of more than 8 bits uses its range.

    Attributes:
        highest: its largest value, as the file has it.
        clipped: how many pixels were above the end of the range.
    """

    highest: int
    clipped: int


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has more than 8 bits a channel."""
    return image.mode.startswith("I;16")


def to_levels(image: Image.Image, max_value: int) -> tuple[Image.Image, Depth]:
    """The levels of a picture of 16-bit grey; what is transparent becomes white.

    Args:
        image: a picture whose pixels have been decoded.
        max_value: the end of the range; larger values become this one.

    Returns:
        Mode F, [0, max_value]; and how the range was used.
    """
    levels = image.convert("I")
    transparent = image.info.get("transparency")
    hidden = None
    if isinstance(transparent, int) and 0 <= transparent <= MAX_LEVEL:
        hidden = levels.point(_marks(transparent, transparent), "L")
        # How the range is used, is told by what can be seen.
        levels.paste(0, None, hidden)
    highest, clipped = cast("tuple[int, int]", levels.getextrema())[1], 0
    if highest > max_value:
        above = levels.point(_marks(max_value + 1, MAX_LEVEL), "L")
        clipped = above.histogram()[255]
        levels.paste(max_value, None, above)
    if _white_is_zero(image):
        # Pillow turns such pictures over at 8 bits, but not at 16.
        levels = levels.point(lambda level: level * -1 + max_value)
    if hidden is not None:
        levels.paste(max_value, None, hidden)
    return levels.convert("F"), Depth(highest, clipped)


def levels_to_rgb(levels: Image.Image, max_value: int) -> Image.Image:
    """The picture that eyes see of levels, [0, max_value]: RGB, 8 bits a channel, rounded."""
    grey = levels.convert("I").point(_eight_bits(max_value), "L")
    return Image.merge("RGB", (grey, grey, grey))


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a loaded picture to RGB.

    Alpha, of whatever kind, is laid over white. CMYK is converted without a colour profile.

    Args:
        image: a picture of 8 bits a channel whose pixels have been decoded.

    Returns:
        Mode RGB, 8 bits a channel; `image` itself where it is so already.

    Raises:
        ImageUnreadable: the pixels have no stated range (32-bit, signed or float) or are CIELAB.
    """
    if image.mode in {"I", "F", "LAB"}:
        raise ImageUnreadable(
            "the picture's pixels are signed, 32-bit, float or CIELAB; accepted are unsigned 8 or 16 bits a "
            "channel in grey, palette, RGB, YCbCr or CMYK, with or without alpha"
        )
    if image.has_transparency_data:
        return _over_white(image if image.mode == "RGBA" else image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _white_is_zero(image: Image.Image) -> bool:
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


@lru_cache(maxsize=8)
def _eight_bits(max_value: int) -> tuple[int, ...]:
    """The 8-bit level of every 16-bit one, rounded: Pillow looks levels up in a table for 32-bit pixels only."""
    return tuple((2 * 255 * min(level, max_value) + max_value) // (2 * max_value) for level in range(MAX_LEVEL + 1))


def _marks(lowest: int, highest: int) -> tuple[int, ...]:
    return tuple(255 if lowest <= level <= highest else 0 for level in range(MAX_LEVEL + 1))


def _over_white(rgba: Image.Image) -> Image.Image:
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white
