"""What costs more than its picture is refused or left out before a decoder sees it; pictures are what they were."""

import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from app.errors import ImageError, ImageUnreadable, TooManyPixels
from app.imaging.decode import open_image
from app.imaging.formats import FORMATS
from app.imaging.inspection.av1 import frames_of
from app.imaging.inspection.limits import FREE_PIXELS
from testing.attacks import bombs, bombs_of_tables
from testing.attacks.containers import Part, join_jpeg, join_png, split_boxes, split_jpeg, split_png
from testing.attacks.seeds import sound_files
from testing.pictures import MAX_PIXELS, decode, encoded, gradient, noise, photograph, rgb

MANY = 200_000
TOO_MANY = {
    bombs.progressive_jpeg_of_many_scans: "more than 100 scans",
    bombs.progressive_jpeg_of_empty_scans: "more than 100 scans",
    bombs.arithmetic_jpeg_of_many_scans: "more than 100 scans",
    partial(bombs.progressive_jpeg_of_many_scans, 30): "30 scans of 64,000,000 pixels; at most 1,280,000,000 pixels",
    partial(bombs.arithmetic_jpeg_of_many_scans, 6): "24 scans of 64,000,000 pixels",
    partial(bombs.jpeg_of_many_segments, MANY): "more than 4,096 segments",
    partial(bombs.jpeg_of_many_marks, MANY): "more than 4,096 segments",
    partial(bombs.png_of_many_chunks, MANY): "more than 131,072 chunks",
    partial(bombs.png_of_many_pieces, MANY): "more than 131,072 chunks",
    bombs.png_that_is_cut_short: "cut short or corrupt",
    bombs.lossless_webp: "claims 63,893,700 pixels in 40 bytes; above 4,194,304 pixels at most 16,384 a byte",
    partial(bombs.webp_of_many_chunks, MANY): "more than 131,072 chunks",
    partial(bombs.webp_of_many_frames, MANY): "more than 131,072 chunks",
    partial(bombs.gif_of_many_blocks, MANY): "more than 131,072 blocks before its first frame",
    partial(bombs.gif_of_many_extensions, MANY): "more than 131,072 blocks before its first frame",
    bombs.gif_of_large_screen: "claims 64,000,000 pixels in 48 bytes",
    bombs.run_length_bmp: "claims 64,000,000 pixels in 1,112 bytes",
    partial(bombs.run_length_bmp_of_escapes, 300_000): "more than 262,144 lines, moves and stretches",
    bombs.bmp_of_one_row: "cut short or corrupt",
    bombs_of_tables.tiff_of_one_row: "cut short or corrupt",
    partial(bombs_of_tables.tiff_of_many_strips, MANY): "more than 65,536 strips or tiles",
    partial(bombs_of_tables.tiff_of_many_strips, MANY, compression=8): "more than 65,536 strips or tiles",
    partial(bombs_of_tables.tiff_of_many_entries, MANY): "more than 4,096 entries in its directory",
    bombs_of_tables.tiff_of_overlapping_strips: (
        "strips or tiles have 251,.* bytes, and the file has 4,.*; .* at most 4 times"
    ),
    partial(bombs_of_tables.tiff_of_overlapping_strips, compression=8): "strips or tiles have 251,",
    bombs_of_tables.tiff_of_large_tile: "tiles of 65520 x 65520 pixels cover 4,292,870,400 pixels",
    bombs_of_tables.tiff_of_progressive_jpegs: "strips or tiles have 229,700 bytes",
    partial(bombs_of_tables.tiff_of_progressive_jpegs, 90, 4000, 2): "180 scans of 32,000,000 pixels",
    bombs_of_tables.avif_of_many_items: "more than 1,024 items",
    partial(bombs_of_tables.avif_of_many_chunks, 100_000): "more than 65,536 entries in a table",
    partial(bombs_of_tables.avif_of_many_chunks, 60_000): "more than 16,777,216 look-ups",
}  # fmt: skip
READ = [
    partial(bombs.jpeg_of_junk, 4 << 20),
    partial(bombs.jpeg_of_broken_exif, 50),
    partial(bombs.png_of_many_profiles, 3000),
    bombs.png_of_much_text,
    partial(bombs.png_of_much_text, after=True),
    bombs.png_of_large_exif,
    partial(bombs.gif_of_junk, 4 << 20),
    partial(bombs.webp_of_many_frames, 100_000),
]


def spent_s(work: Callable[[], object]) -> float:
    """The least processor time of three tries, of this thread: others of this process may be at work."""
    times = []
    for _ in range(3):
        started = time.thread_time()
        with suppress(ImageError):
            work()
        times.append(time.thread_time() - started)
    return min(times)


@pytest.fixture(scope="module")
def honest_s() -> float:
    """Processor time for a photograph of 12 megapixels, as phones take them."""
    data = encoded(photograph("coffee").resize((4000, 3000)), "JPEG", progressive=True)
    return spent_s(lambda: decode(data, MAX_PIXELS))


def named(maker: Callable[[], bytes]) -> str:
    return str(getattr(maker, "func", maker).__name__)


@pytest.mark.parametrize(("maker", "words"), TOO_MANY.items(), ids=map(named, TOO_MANY))
def test_what_costs_too_much_is_refused_in_words_and_at_little_cost(
    maker: Callable[[], bytes], words: str, honest_s: float
) -> None:
    data = maker()
    with pytest.raises(ImageUnreadable, match=words) as caught:
        decode(data, MAX_PIXELS)
    assert len(str(caught.value)) < 500
    assert spent_s(lambda: decode(data, MAX_PIXELS)) < 8 * honest_s


@pytest.mark.parametrize("maker", READ, ids=map(named, READ))
def test_what_is_no_part_of_a_picture_costs_nothing(maker: Callable[[], bytes], honest_s: float) -> None:
    data = maker()
    assert decode(data, MAX_PIXELS).width == 64
    assert spent_s(lambda: decode(data, MAX_PIXELS)) < 8 * honest_s


@pytest.mark.parametrize(
    "data",
    [
        bombs.progressive_jpeg_of_many_scans(20, (4000, 4000)),
        bombs.progressive_jpeg_of_many_scans(100, (1600, 1600)),
        bombs.arithmetic_jpeg_of_many_scans(20, (2000, 2000)),
        bombs.run_length_bmp_of_pairs(1 << 20),
        bombs.run_length_bmp_of_long_runs(1 << 20),
        bombs.gif_of_clear_codes(4 << 20),
        bombs_of_tables.tiff_of_overlapping_strips(16, chunk=1 << 20),
        bombs_of_tables.tiff_of_overlapping_strips(16, compression=8, chunk=1 << 20),
    ],
)
def test_what_is_within_the_limits_costs_what_pictures_cost(data: bytes, honest_s: float) -> None:
    assert spent_s(lambda: decode(data, MAX_PIXELS)) < 8 * honest_s


def test_the_frame_in_an_avif_counts_and_not_what_its_container_says() -> None:
    data = bombs_of_tables.avif_of_other_size(side=1200, claimed=64)
    with pytest.raises(TooManyPixels, match="1200 x 1200"):
        open_image(data, 1_000_000)
    assert decode(data, 2_000_000).width == 64


@pytest.mark.parametrize("size", [(8, 8), (16, 300), (255, 257), (1023, 64)])
@pytest.mark.parametrize("options", [{}, {"quality": 100, "subsampling": "4:4:4"}, {"speed": 8}, {"tile_rows": 1}])
def test_the_size_in_an_av1_header_is_found(size: tuple[int, int], options: dict[str, object]) -> None:
    image = photograph("coffee").resize(size)
    data = encoded(image, "AVIF", **{"speed": 10, **options})
    coded = next(part.payload for part in split_boxes(data) if part.kind == b"mdat")
    frames = frames_of(coded)
    assert (frames.width, frames.height, frames.pixels) == (*size, size[0] * size[1])


def test_the_frames_of_a_sequence_are_looked_at_in_their_tracks() -> None:
    frames = [Image.new("RGB", (1000, 900), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:], speed=10)
    small = data.replace(struct.pack(">LL", 1000, 900), struct.pack(">LL", 64, 64))
    small = small.replace(struct.pack(">LL", 1000 << 16, 900 << 16), struct.pack(">LL", 64 << 16, 64 << 16))
    with pytest.raises(TooManyPixels, match="1000 x 900"):
        open_image(small, 500_000)


@pytest.mark.parametrize("name", sorted(sound_files()))
def test_a_sound_file_shows_the_same_without_the_rest(name: str) -> None:
    data = sound_files()[name]
    with (
        Image.open(BytesIO(data)) as plain,
        Image.open(BytesIO(FORMATS[name.split()[0]].inspect(data, MAX_PIXELS))) as inspected,
    ):
        assert inspected.size == plain.size
        np.testing.assert_array_equal(np.asarray(inspected), np.asarray(plain))
        assert inspected.getexif().get(0x0112, 1) == plain.getexif().get(0x0112, 1)


def camera_jpeg() -> bytes:
    """As phones and editors write them: a thumbnail, a profile of 3 MB, XMP, Photoshop's blocks, a second picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    two = encoded(gradient(300, 400), "MPO", save_all=True, append_images=[photograph("coffee")], exif=exif, quality=90)
    parts = split_jpeg(two)
    pieces = [noise(1, 65000, seed=number).tobytes() for number in range(48)]
    more = [
        Part(b"\xff\xe2", b"ICC_PROFILE\0" + bytes([number + 1, len(pieces)]) + piece)
        for number, piece in enumerate(pieces)
    ]
    thumbnail = encoded(photograph("chelsea").resize((160, 120)), "JPEG", progressive=True)
    more += [
        Part(b"\xff\xed", b"Photoshop 3.0\0" + thumbnail),
        Part(b"\xff\xfe", b"a comment"),
        Part(b"\xff\xe2", b"x"),
    ]
    return join_jpeg([*parts[:2], *more, *parts[2:]])


def test_a_picture_of_a_camera_is_read_and_turned() -> None:
    picture = decode(camera_jpeg(), MAX_PIXELS)
    assert (picture.format, picture.width, picture.height) == ("JPEG", 300, 400)
    upright = np.rot90(gradient(300, 400), -1).astype(float)
    assert np.abs(rgb(picture.pixels) - upright).mean() < 3


@pytest.mark.parametrize("text", ["exif", "zTXt", "XMP", "compressed XMP", "behind"])
def test_pngs_are_turned_by_what_programs_write_into_them(text: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = exif.tobytes()
    info = PngImagePlugin.PngInfo()
    profile = f"\nexif\n{len(raw):8}\n{raw.hex()}\n"
    xmp = '<x:xmpmeta><rdf tiff:Orientation="6"/></x:xmpmeta>'
    if text in {"exif", "zTXt"}:
        info.add_text("Raw profile type exif", profile, zip=text == "zTXt")
    elif text != "behind":
        info.add_itxt("XML:com.adobe.xmp", xmp, zip=text != "XMP")
    data = encoded(gradient(24, 40), "PNG", pnginfo=info)
    if text == "behind":
        parts = split_png(data)
        data = join_png([*parts[:-1], Part(b"eXIf", raw.removeprefix(b"Exif\0\0")), parts[-1]])
    assert decode(data, MAX_PIXELS).width == 24


def test_a_text_of_many_megabytes_does_not_refuse_its_picture() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "history " * (1 << 20), zip=True)
    info.add_text("Raw profile type exif", "00" * (2 << 20), zip=True)
    assert decode(encoded(gradient(24, 40), "PNG", pnginfo=info), MAX_PIXELS).width == 40


def test_pixels_may_lie_in_many_small_chunks() -> None:
    pixels = noise(500, 700, 3)
    parts = split_png(encoded(pixels, "PNG"))
    whole = b"".join(part.payload for part in parts if part.kind == b"IDAT")
    pieces = [Part(b"IDAT", whole[at : at + 16]) for at in range(0, len(whole), 16)]
    assert len(pieces) > 60_000
    data = join_png([parts[0], *pieces, Part(b"IEND", b"")])
    np.testing.assert_array_equal(rgb(decode(data, MAX_PIXELS).pixels), pixels)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_long_animations_give_their_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (24, 16), (number % 256, 90, 0)) for number in range(500)]
    options: dict[str, object] = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert np.abs(rgb(decode(data, MAX_PIXELS).pixels).astype(int) - [0, 90, 0]).max() <= 5


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "jpeg"])
def test_a_tiff_may_have_a_strip_for_each_row(compression: str) -> None:
    pixels = gradient(8000, 40)
    data = encoded(pixels, "TIFF", compression=compression, tiffinfo={278: 8 if compression == "jpeg" else 1})
    assert np.abs(rgb(decode(data, MAX_PIXELS).pixels).astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "WEBP lossless", "GIF", "TIFF", "AVIF", "BMP"])
def test_a_plain_colour_is_a_picture(file_format: str) -> None:
    side = int(FREE_PIXELS**0.5)
    name, _, lossless = file_format.partition(" ")
    options: dict[str, object] = {"lossless": True} if lossless else {"compression": "zstd"} if name == "TIFF" else {}
    data = encoded(Image.new("RGB", (side, side), "white"), name, **options)
    assert decode(data, MAX_PIXELS).width == side


PAGES = [
    ("PNG", {}),
    ("GIF", {}),
    ("TIFF", {"compression": "group4"}),
    ("TIFF", {"compression": "tiff_adobe_deflate"}),
]


@pytest.mark.parametrize(("file_format", "options"), PAGES)
def test_an_empty_page_of_a_scanner_is_a_picture(file_format: str, options: dict[str, object]) -> None:
    data = encoded(Image.new("1", (4960, 7016), 1), file_format, **options)
    assert decode(data, MAX_PIXELS).width == 4960


@pytest.mark.parametrize("file_format", ["WEBP", "AVIF"])
def test_a_page_with_one_word_on_it_is_a_picture(file_format: str) -> None:
    page = Image.new("RGB", (4960, 3508), "white")
    page.paste(photograph("chelsea").resize((120, 40)), (600, 600))
    options: dict[str, object] = {"lossless": True, "method": 0} if file_format == "WEBP" else {"speed": 10}
    assert decode(encoded(page, file_format, **options), MAX_PIXELS).width == 4960


def test_a_png_that_says_all_that_deflate_can_say_is_read() -> None:
    blank = encoded(Image.new("RGB", (6000, 6000), "white"), "PNG", compress_level=9)
    assert len(blank) < 6000 * 6000 * 3 / 900
    assert decode(blank, MAX_PIXELS).width == 6000
    parts = split_png(blank)
    short = [part for part in parts if part.kind != b"IDAT"]
    few = zlib.compress(bytes(1000), 9)
    with pytest.raises(ImageUnreadable, match="cut short"):
        open_image(join_png([*short[:-1], Part(b"IDAT", few), short[-1]]), MAX_PIXELS)
