"""Small sound pictures, one for each way in which the accepted formats store them."""

from functools import cache
from io import BytesIO
from typing import Any

from PIL import Image

from testing.pictures import encoded, photograph

SIZE_PX = (56, 48)
_ICC = b"\x00\x00\x02\x0clcms\x02\x10\x00\x00mntrRGB XYZ " + bytes(500)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def _frames(picture: Image.Image, count: int = 3) -> list[Image.Image]:
    return [picture.rotate(90 * (number + 1)).resize(SIZE_PX) for number in range(count)]


@cache
def sound_files() -> dict[str, bytes]:
    """The files by name; the name starts with the format."""
    picture = photograph("astronaut").resize(SIZE_PX)
    alpha = picture.copy()
    alpha.putalpha(photograph("coffee").resize(SIZE_PX).convert("L"))
    grey, palette = picture.convert("L"), picture.quantize(37)

    def more() -> dict[str, Any]:
        # Pillow leaves settings of the one format in the pictures that the next would stumble over.
        return {"save_all": True, "append_images": _frames(picture)}

    kinds: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("JPEG plain", picture, "JPEG", {}),
        ("JPEG progressive", picture, "JPEG", {"progressive": True, "exif": _exif(6), "icc_profile": _ICC}),
        ("JPEG grey", grey, "JPEG", {"restart_marker_blocks": 2}),
        ("JPEG CMYK", picture.convert("CMYK"), "JPEG", {"subsampling": 0, "comment": b"a comment"}),
        ("JPEG several", picture, "MPO", more()),
        ("PNG plain", picture, "PNG", {}),
        ("PNG palette", palette, "PNG", {"transparency": 3, "bits": 8}),
        ("PNG alpha", alpha, "PNG", {"exif": _exif(8), "icc_profile": _ICC, "dpi": (72, 72)}),
        ("PNG grey 16", Image.new("I;16", SIZE_PX, 31_000), "PNG", {}),
        ("PNG one bit", grey.convert("1"), "PNG", {}),
        ("PNG animated", picture, "PNG", more()),
        ("WEBP plain", picture, "WEBP", {}),
        ("WEBP lossless", alpha, "WEBP", {"lossless": True, "exif": _exif(3), "icc_profile": _ICC}),
        ("WEBP animated", picture, "WEBP", more()),
        ("BMP plain", picture, "BMP", {}),
        ("BMP palette", palette, "BMP", {}),
        ("BMP one bit", grey.convert("1"), "BMP", {}),
        ("BMP alpha", alpha, "BMP", {}),
        ("TIFF plain", picture, "TIFF", {"exif": _exif(5)}),
        ("TIFF deflate", alpha, "TIFF", {"compression": "tiff_deflate", "icc_profile": _ICC}),
        ("TIFF LZW", palette, "TIFF", {"compression": "tiff_lzw"}),
        ("TIFF JPEG", picture, "TIFF", {"compression": "jpeg"}),
        ("TIFF fax", grey.convert("1"), "TIFF", {"compression": "group4"}),
        ("TIFF packbits", grey, "TIFF", {"compression": "packbits"}),
        ("TIFF big", picture, "TIFF", {"big_tiff": True}),
        ("TIFF several", picture, "TIFF", more()),
        ("GIF plain", palette, "GIF", {}),
        ("GIF interlaced", grey, "GIF", {"interlace": 1, "transparency": 7, "comment": b"a comment"}),
        (
            "GIF animated",
            palette,
            "GIF",
            {**more(), "append_images": [frame.quantize(9) for frame in _frames(picture)]},
        ),
        ("AVIF plain", picture, "AVIF", {"quality": 60, "speed": 10}),
        ("AVIF alpha", alpha, "AVIF", {"speed": 10, "exif": _exif(7), "icc_profile": _ICC}),
        ("AVIF animated", picture, "AVIF", {**more(), "speed": 10}),
    ]
    return {name: encoded(image.copy(), kind, **options) for name, image, kind, options in kinds}


def format_of(data: bytes) -> str:
    """The format that a sound file says it has."""
    with Image.open(BytesIO(data)) as image:
        return "JPEG" if image.format == "MPO" else str(image.format)
