"""Brings every mode of Pillow's that an accepted file can have to 8-bit RGB."""

from functools import cache

from PIL import Image, TiffImagePlugin

from app.imaging.errors import ImageUnreadable

_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a loaded picture to RGB.

    16-bit grey is divided by 257 and rounded, so that full white stays white. Alpha, of whatever kind, is
    laid over white. CMYK is converted without a colour profile.

    Args:
        image: a picture whose pixels have been decoded.

    Returns:
        Mode RGB, 8 bits a channel; `image` itself where it is so already.

    Raises:
        ImageUnreadable: the pixels have no stated range (32-bit, signed or float) or are CIELAB.
    """
    if image.mode.startswith("I;16"):
        return _from_sixteen_bits(image)
    if image.mode in {"I", "F", "LAB"}:
        raise ImageUnreadable(
            "The picture's pixels are signed, 32-bit, float or CIELAB; accepted are unsigned 8 or 16 bits a "
            "channel in grey, palette, RGB, YCbCr or CMYK, with or without alpha."
        )
    if image.has_transparency_data:
        return _over_white(image if image.mode == "RGBA" else image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    levels = _sixteen_to_eight_bits()
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        # Pillow turns such pictures over at 8 bits, but not at 16.
        levels = levels[::-1]
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and 0 <= transparent < len(levels):
        levels = (*levels[:transparent], 255, *levels[transparent + 1 :])
    # Pillow looks levels up in a table for 32-bit pixels only.
    grey = image.convert("I").point(levels, "L")
    return Image.merge("RGB", (grey, grey, grey))


@cache
def _sixteen_to_eight_bits() -> tuple[int, ...]:
    return tuple((value + 128) // 257 for value in range(65536))


def _over_white(rgba: Image.Image) -> Image.Image:
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white
