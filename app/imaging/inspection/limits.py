"""What a file of any format may cost its decoder, and the errors for what exceeds it."""

from app.errors import ImageTooSmall, ImageUnreadable, TooManyPixels

MIN_SIDE_PX = 8

# A 32 MiB PNG of the usual pieces of 8 KiB has 4,096 of them; to step over a part takes less than a microsecond.
MAX_PARTS = 1 << 17
# Of EXIF and XMP together, which say which way up a picture is.
MAX_METADATA_BYTES = 1 << 20
# Scans times pixels, in pictures of the largest size: usual progressive JPEGs have 10 scans, 18 where they are CMYK.
MAX_PASSES = 20
# White pages of 17 megapixels with one word on them have 66 (lossless WebP) to 5,200 (AVIF) pixels a byte.
MAX_PIXELS_PER_BYTE = 1 << 14
# Up to this size a picture of one colour is read, however small its file.
FREE_PIXELS = 1 << 22


def cut_short(file_format: str) -> ImageUnreadable:
    """The error of a file that ends too early or makes no sense."""
    return ImageUnreadable(f"the {file_format} file is cut short or corrupt")


def too_many(file_format: str, parts: str, limit: int) -> ImageUnreadable:
    """The error of a file that has too many of something."""
    return ImageUnreadable(f"the {file_format} file has more than {limit:,} {parts}; at most that many are accepted")


def too_many_pixels(width: int, height: int, max_pixels: int) -> TooManyPixels:
    """The error of a picture over the limit."""
    return TooManyPixels(
        f"the picture has {width} x {height} = {width * height:,} pixels; at most {max_pixels:,} are accepted",
        expected=f"at most {max_pixels} pixels",
        width=width,
        height=height,
    )


def too_small(width: int, height: int) -> ImageTooSmall:
    """The error of a picture with a side that is too short for a network."""
    return ImageTooSmall(
        f"the picture has {width} x {height} pixels; both sides must have at least {MIN_SIDE_PX}",
        expected=f"at least {MIN_SIDE_PX} px on each side",
        width=width,
        height=height,
    )


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuses a size over the limit."""
    if width * height > max_pixels:
        raise too_many_pixels(width, height, max_pixels)


def check_passes(file_format: str, passes: int, pixels: int, max_pixels: int) -> None:
    """Refuses a picture that is decoded in so many scans that each pixel is visited far too often."""
    if passes > 1 and passes * pixels > MAX_PASSES * max_pixels:
        raise ImageUnreadable(
            f"the {file_format} file has {passes:,} scans of {pixels:,} pixels; at most {MAX_PASSES * max_pixels:,} "
            "pixels in all scans together are accepted: save it with fewer scans, or not as progressive"
        )


def check_claim(file_format: str, pixels: int, data_bytes: int) -> None:
    """Refuses a large picture in so few bytes that there cannot be anything to see in it."""
    if pixels > max(FREE_PIXELS, MAX_PIXELS_PER_BYTE * data_bytes):
        raise ImageUnreadable(
            f"the {file_format} file claims {pixels:,} pixels in {data_bytes:,} bytes; above {FREE_PIXELS:,} pixels at "
            f"most {MAX_PIXELS_PER_BYTE:,} a byte are accepted: send a smaller picture"
        )
