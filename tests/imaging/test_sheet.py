"""A contact sheet shows every picture as it is and every text in its own place."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from app.imaging import sheet as sheet_module
from app.imaging.sheet import sheet_size
from testing.pictures import UInt8, noise

SIZES = [(256, 171), (171, 256), (256, 13), (13, 256), (1, 1), (1, 20), (20, 1), (64, 64), (112, 48), (1024, 288)]
TABLES = [(1, 1), (3, 6), (16, 4), (2, 1)]
FOUR_LINES = "gradcam\nrest\nand\nmore"
NAME = "hand-held computer, hand-held microcomputer"
ODD = [
    "größere Äffin\n3.1 %\n#7",
    "Ελληνική γάτα",
    "кошка",
    "日本の猫" * 9,
    "😀👩‍👩‍👧‍👦 cat",
    "חתול גדול abc קטן",
    "قطة كبيرة",
    "a\u202eb\u2066c\x00\x1b[31md\x7f",
    "\ud800\udfff lone",
    "Z" + "\u0301\u0316" * 200 + "algo",
    "\u0301 mark first",
    "x" * 500,
    "W" * 2000,
    "no end of words " * 99,
    "a\r\nb\u2028c\x85d\n\n\n" * 50,
    "_-/" * 100,
    "\ufdfd\ufdfa" * 30,
    NAME,
]
BLANK = ["", " ", "\n\n", "\x00\u200b\u202e", "\t \u3000\n\u00a0"]

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a sheet, with its pixels as an array."""

    picture: UInt8
    note: str = ""


def contact_sheet(rows: Sequence[Sequence[Cell]], columns: list[str], labels: list[str], *, title: str = "") -> UInt8:
    """The sheet as an array."""
    cells = [[sheet_module.Cell(Image.fromarray(cell.picture), cell.note) for cell in row] for row in rows]
    return np.array(sheet_module.contact_sheet(cells, columns, labels, title=title))


def colourful(width: int, height: int, seed: int) -> UInt8:
    """Noise in which no pixel is grey, so that it cannot be taken for text."""
    picture = noise(height, width, 3, seed=seed)
    picture[..., 0] = picture[..., 0] // 2 + 128
    picture[..., 2] //= 3
    return picture


def table(size: tuple[int, int], rows: int, columns: int, note: str = "") -> list[list[Cell]]:
    return [
        [Cell(colourful(*size, seed=row * columns + column), note) for column in range(columns)] for row in range(rows)
    ]


def sheet_of(cells: list[list[Cell]], header: str = "shapleycam\nrest", label: str = "tiger cat") -> UInt8:
    return contact_sheet(cells, [header] * len(cells[0]), [label] * len(cells), title="tf_efficientnet_lite0 · pre_gap")


def find(sheet: UInt8, picture: UInt8) -> Place:
    """Finds the one place (left, top) at which the sheet shows the picture's first line of pixels."""
    height, width, _ = picture.shape
    first = (sheet[: sheet.shape[0] - height + 1, : sheet.shape[1] - width + 1] == picture[0, 0]).all(axis=2)
    places = [
        (int(left), int(top))
        for top, left in np.argwhere(first)
        if np.array_equal(sheet[top, left : left + width], picture[0])
    ]
    assert len(places) == 1
    return places[0]


def places(sheet: UInt8, cells: list[list[Cell]]) -> list[list[Place]]:
    return [[find(sheet, cell.picture) for cell in row] for row in cells]


def changed(sheet: UInt8, other: UInt8) -> tuple[slice, slice]:
    """The smallest rectangle, (rows, columns), that holds every difference; there must be one."""
    rows, columns = np.nonzero((sheet != other).any(axis=2))
    assert len(rows)
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)


def contrast(pixels: UInt8) -> float:
    """The contrast ratio of WCAG 2 between the lightest and the darkest of grey pixels."""
    level = pixels.astype(np.float64) / 255
    luminance = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return float((luminance.max() + 0.05) / (luminance.min() + 0.05))


def is_grey(pixels: UInt8) -> npt.NDArray[np.bool_]:
    return (pixels == pixels[..., :1]).all(axis=2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("rows", "columns"), TABLES)
@pytest.mark.parametrize("title", ["", "tf_efficientnet_lite0 · pre_gap", "any_name_" * 60])
def test_the_size_is_known_before_anything_is_drawn(size: tuple[int, int], rows: int, columns: int, title: str) -> None:
    headers = ["integrated-shapleycam\npost-softmax", "", "a\nb\nc\nd\ne\nf", "gradcam", "x" * 500, NAME][:columns]
    cells = [[Cell(np.zeros((size[1], size[0], 3), np.uint8), "ADCC 80.5")] * columns] * rows
    sheet = contact_sheet(cells, headers, ["tiger cat"] * rows, title=title)
    assert sheet.shape[1::-1] == sheet_size(size, rows, headers, title=title)
    assert sheet.dtype == np.uint8


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 4)])
@pytest.mark.parametrize("title", ["", "any_name_" * 60])
def test_every_picture_appears_pixel_for_pixel_in_its_row_and_column(
    size: tuple[int, int], rows: int, columns: int, title: str
) -> None:
    cells, headers = table(size, rows, columns), ["a\nb\nc", *["x" * 90] * (columns - 1)]
    sheet = contact_sheet(cells, headers, ["tiger cat"] * rows, title=title)
    found = places(sheet, cells)
    rest = sheet.copy()
    for row, line in zip(cells, found, strict=True):
        for cell, (left, top) in zip(row, line, strict=True):
            shown = slice(top, top + size[1]), slice(left, left + size[0])
            np.testing.assert_array_equal(sheet[shown], cell.picture)
            rest[shown] = 255
    assert is_grey(rest).all()
    lefts, tops = np.array(found)[..., 0], np.array(found)[..., 1]
    assert (lefts == lefts[:1]).all()
    assert (tops == tops[:, :1]).all()
    assert (np.diff(lefts, axis=1) > size[0]).all()
    assert (np.diff(tops, axis=0) > size[1]).all()
    assert len({*np.diff(lefts, axis=1).flat}) <= 1, "columns lie evenly"
    assert len({*np.diff(tops, axis=0).flat}) <= 1, "rows lie evenly"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("note", ["ADCC 80.5", "a note that is far too long " * 9, "日本 😀"])
def test_a_note_covers_a_corner_of_its_own_picture_or_stands_below_a_small_one(
    size: tuple[int, int], note: str
) -> None:
    plain = table(size, 3, 3)
    noted = [list(row) for row in plain]
    noted[1][1] = Cell(plain[1][1].picture, note)
    before, after = sheet_of(plain), sheet_of(noted)
    rows, columns = changed(before, after)
    left, top = find(before, plain[1][1].picture)
    if size[0] < 112 or size[1] < max(size) * 3 / 16:
        assert top + size[1] <= rows.start
        below, pitch = find(before, plain[2][1].picture)[1], left - find(before, plain[1][0].picture)[0]
        assert rows.stop < below
        assert abs((columns.start + columns.stop) / 2 - (left + size[0] / 2)) <= 2
        assert columns.stop - columns.start < pitch
    else:
        assert (rows.stop, columns.stop) == (top + size[1], left + size[0])
        assert left <= columns.start
        assert rows.stop - rows.start <= size[1] / 2
        assert is_grey(after[rows, columns]).all()
    if note == "ADCC 80.5" and min(size) >= 48:
        assert (rows.stop - rows.start) * (columns.stop - columns.start) <= 0.36 * size[0] * size[1]


@pytest.mark.parametrize("size", [(256, 171), (112, 48), (1024, 288)])
def test_a_note_reads_the_same_on_black_on_white_and_on_noise(size: tuple[int, int]) -> None:
    noisy = noise(size[1], size[0], 3)
    grounds = [np.zeros_like(noisy), np.full_like(noisy, 255), noisy]
    sheets = [sheet_of([[Cell(ground, "ADCC 80.5")]]) for ground in grounds]
    box = changed(sheets[0], sheet_of([[Cell(grounds[0])]]))
    for sheet in sheets:
        assert contrast(sheet[box]) >= 4.5
        np.testing.assert_array_equal(sheet[box], sheets[0][box])
    assert 0.03 < (sheets[0][box] < 128).mean() < 0.4


@pytest.mark.parametrize("size", [(256, 13), (13, 256), (1, 1)])
def test_a_note_below_a_small_picture_is_dark_on_white(size: tuple[int, int]) -> None:
    with_note, without = sheet_of(table(size, 1, 1, "ADCC 80.5")), sheet_of(table(size, 1, 1))
    assert contrast(with_note[changed(with_note, without)]) >= 4.5


@pytest.mark.parametrize("size", [(256, 171), (256, 13), (13, 256), (1, 1)])
@pytest.mark.parametrize("text", ODD)
def test_a_text_stays_in_its_own_column_or_row(size: tuple[int, int], text: str) -> None:
    cells = table(size, 3, 3)
    headers, labels = [FOUR_LINES] * 3, ["tiger cat"] * 3
    empty = contact_sheet(cells, [FOUR_LINES, "", FOUR_LINES], ["tiger cat", "", "tiger cat"])
    left, top = find(empty, cells[1][1].picture)
    pitch_x, pitch_y = left - find(empty, cells[0][0].picture)[0], top - find(empty, cells[0][0].picture)[1]

    rows, columns = changed(empty, contact_sheet(cells, [FOUR_LINES, text, FOUR_LINES], ["tiger cat", "", "tiger cat"]))
    assert rows.stop <= top - pitch_y
    assert left + size[0] / 2 - pitch_x / 2 < columns.start
    assert columns.stop < left + size[0] / 2 + pitch_x / 2

    rows, columns = changed(empty, contact_sheet(cells, [FOUR_LINES, "", FOUR_LINES], ["tiger cat", text, "tiger cat"]))
    assert columns.stop <= left - pitch_x
    # A caption that may stand under a small picture counts as its own.
    assert top + size[1] / 2 - pitch_y / 2 - 1 < rows.start
    assert rows.stop < top + size[1] / 2 + pitch_y / 2 + 10

    titled = contact_sheet(cells, headers, labels, title=text)
    untitled = contact_sheet(cells, headers, labels)
    grown = len(titled) - len(untitled)
    assert grown > 0
    assert find(titled, cells[0][0].picture)[1] == find(untitled, cells[0][0].picture)[1] + grown
    np.testing.assert_array_equal(titled[-len(untitled) + 16 :], untitled[16:])
    for margin in (titled[:16], titled[-16:], titled[:, :16], titled[:, -16:]):
        assert (margin == 255).all()


@pytest.mark.parametrize("text", BLANK)
def test_texts_without_anything_to_show_leave_the_paper_white(text: str) -> None:
    cells = table((64, 64), 2, 2, text)
    sheet = contact_sheet(cells, [text] * 2, [text] * 2, title=text)
    for row, line in zip(cells, places(sheet, cells), strict=True):
        for cell, (left, top) in zip(row, line, strict=True):
            np.testing.assert_array_equal(sheet[top : top + 64, left : left + 64], cell.picture)
            sheet[top : top + 64, left : left + 64] = 255
    assert (sheet == 255).all()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (NAME, "hand-held\ncomputer,\nhand-held\nmicrocomputer"),
        ("integrated-shapleycam", "integrated-\nshapleycam"),
        ("a\r\nb\u2028c", "a\nb\nc"),
        (" a \t\n\n\n b\u3000 c ", "a\nb c"),
        ("r\u202ee\x00d\x1b\u200b", "red"),
        ("gro\u0308\u00dfer", "größer"),
        (f"{'x' * 500}\n{NAME}", f"{'x' * 500}\nhand-held\ncomputer,\nhand-held\nmicrocomputer"),
        ("1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11", "1\n2\n3\n4\n5\n6\n7\n8…"),
    ],
)
def test_labels_are_wrapped_between_words_and_cleaned(text: str, same: str) -> None:
    cells = table((256, 171), 1, 1)
    np.testing.assert_array_equal(sheet_of(cells, label=text), sheet_of(cells, label=same))


def test_a_long_name_is_cut_with_an_ellipsis_and_the_lines_below_it_stay() -> None:
    thin, tall = table((256, 13), 1, 1), table((256, 171), 1, 1)

    def drawn(cells: list[list[Cell]], name: str) -> UInt8:
        sheet = sheet_of(cells, label=f"{name}\n0.1 %\n#590")
        return sheet[changed(sheet, sheet_of(cells, label=""))]

    # The tall sheet has room for more lines, and cuts nothing.
    cut = drawn(thin, NAME)
    assert any(np.array_equal(cut, drawn(tall, f"{NAME[:count]}…")) for count in range(12, 16))


def test_a_long_header_is_cut_with_an_ellipsis_at_the_end_of_its_fourth_line() -> None:
    cells = table((256, 171), 1, 1)
    sheet = sheet_of(cells, header="x" * 500)
    # The ellipsis is wider than one x and narrower than two.
    full = [count for count in range(20, 30) if len(sheet_of(cells, header="x" * count)) == len(sheet_of(cells, "x"))]
    lines = [*["x" * max(full)] * 3, "x" * (max(full) - 2) + "…"]
    np.testing.assert_array_equal(sheet, sheet_of(cells, header="\n".join(lines)))


def test_a_note_that_is_too_long_is_cut_with_an_ellipsis() -> None:
    def drawn(width: int, note: str) -> UInt8:
        sheet = sheet_of(table((width, 112), 1, 1, note))
        return sheet[changed(sheet, sheet_of(table((width, 112), 1, 1)))]

    # Pictures of 112 px and 256 px have text of one size; the wide one cuts nothing.
    note = "average drop in deletion 80.5 %"
    cut = drawn(112, note)
    assert any(np.array_equal(cut, drawn(256, f"{note[:count].rstrip()}…")) for count in range(8, 16))


@pytest.mark.parametrize("size", SIZES)
def test_text_is_large_enough_to_read_and_grows_with_the_pictures(size: tuple[int, int]) -> None:
    cells, noted = table(size, 1, 1), table(size, 1, 1, "H")
    empty = contact_sheet(cells, ["H"], [""])
    scale = max(1, max(size) / 256)
    header = changed(empty, contact_sheet(cells, ["E"], [""]))[0]
    label = changed(empty, contact_sheet(cells, ["H"], ["H"]))[0]
    # Capitals are 0.73 of the text's size, which is 16 px and 14 px in a note.
    assert header.stop - header.start >= 11 * scale
    assert label.stop - label.start >= 11 * scale
    ink = (contact_sheet(noted, ["H"], [""]) < 100).all(axis=2) & (empty >= 100).any(axis=2)
    rows = np.nonzero(ink.any(axis=1))[0]
    assert rows.max() + 1 - rows.min() >= 10 * scale


def test_sheets_drawn_by_several_threads_equal_those_drawn_alone() -> None:
    cells = table((96, 64), 2, 3, "ADCC 80.5")
    alone = [sheet_of(cells, label=text, header=text) for text in ODD]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda text: sheet_of(cells, label=text, header=text), ODD))
    for sheet, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(sheet, expected)


@pytest.mark.parametrize(
    ("rows", "columns", "labels"),
    [
        ([], [], []),
        ([], ["gradcam"], []),
        ([[]], [], ["cat"]),
        ([[(8, 8, 3)]], ["gradcam"], []),
        ([[(8, 8, 3)]], ["gradcam", "layercam"], ["cat"]),
        ([[(8, 8, 3), (8, 8, 3)], [(8, 8, 3)]], ["gradcam", "layercam"], ["cat", "dog"]),
        ([[(8, 8, 3), (8, 9, 3)]], ["gradcam", "layercam"], ["cat"]),
        ([[(8, 8, 4)]], ["gradcam"], ["cat"]),
        ([[(8, 8)]], ["gradcam"], ["cat"]),
    ],
)
def test_what_makes_no_table_of_equal_pictures_is_refused(
    rows: list[list[tuple[int, ...]]], columns: list[str], labels: list[str]
) -> None:
    cells = [[Cell(np.zeros(shape, np.uint8)) for shape in row] for row in rows]
    with pytest.raises(ValueError, match="contact sheet"):
        contact_sheet(cells, columns, labels)


def test_the_size_of_an_empty_sheet_is_refused() -> None:
    for size, rows, columns in (((8, 8), 0, ["gradcam"]), ((8, 8), 1, []), ((0, 8), 1, ["gradcam"])):
        with pytest.raises(ValueError, match="contact sheet"):
            sheet_size(size, rows, columns)
