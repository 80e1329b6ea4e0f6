"""Sets overlays side by side with their captions: a row for each target class, a column for each method."""

import importlib.util
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# Lengths in units of the text's size, so that a sheet looks the same at every size of its pictures.
_PICTURE_EM = 16
_COLUMN_EM = 9
_LINE_EM = 1.25
_BASELINE_EM = 0.95
_GAP_EM = 0.5
_NOTE_EM = 0.875
_NOTE_PADDING_EM = 0.3
_NOTE_NEEDS_EM = (7, 3)

_MIN_EM_PX = 16
_HEADER_LINES = 4
_TITLE_LINES = 3
_LABEL_LINES = 3

# More than a column holds: a bound on what a text costs.
_MAX_CHARACTERS = 512
_ELLIPSIS = "…"
_UNPRINTABLE = {"Cc", "Cf", "Cs"}

_BACKGROUND = 255
_TEXT_COLOUR = 40

_Lines = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        picture: mode RGB.
        note: short text for its corner, such as "ADCC 80.5"; nothing is drawn where it is empty.
    """

    picture: Image.Image
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Geometry:
    """Where everything lies, in px; (0, 0) is the sheet's top left corner."""

    picture_size: tuple[int, int]
    rows: int
    headers: tuple[_Lines, ...]
    title: _Lines

    @property
    def em(self) -> int:
        """Size of the text."""
        return max(_MIN_EM_PX, round(max(self.picture_size) / _PICTURE_EM))

    @property
    def line(self) -> int:
        return _line_px(self.em)

    @property
    def gap(self) -> int:
        return round(_GAP_EM * self.em)

    @property
    def column_width(self) -> int:
        return max(self.picture_size[0], _COLUMN_EM * self.em)

    @property
    def caption(self) -> int:
        """Height of the line under each picture; 0 where the pictures have room for their notes."""
        fits = all(side >= needed * self.em for side, needed in zip(self.picture_size, _NOTE_NEEDS_EM, strict=True))
        return 0 if fits else _line_px(round(_NOTE_EM * self.em))

    @property
    def row_height(self) -> int:
        return max(self.picture_size[1] + self.caption, _LABEL_LINES * self.line)

    @property
    def header_bottom(self) -> int:
        return self.em + self.line * (len(self.title) + max(map(len, self.headers))) + self.gap * bool(self.title)

    @property
    def columns_width(self) -> int:
        return self.left(len(self.headers)) - self.gap - self.left(0)

    @property
    def size(self) -> tuple[int, int]:
        return self.left(0) + self.columns_width + self.em, self.top(self.rows) - self.gap + self.em

    def left(self, column: int) -> int:
        return self.em + (_COLUMN_EM * self.em + self.gap) + column * (self.column_width + self.gap)

    def top(self, row: int) -> int:
        return self.header_bottom + self.gap // 2 + row * (self.row_height + self.gap)

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Left and top of a picture, which lies in the middle of its place."""
        width, height = self.picture_size
        left = self.left(column) + (self.column_width - width) // 2
        return left, self.top(row) + (self.row_height - height - self.caption) // 2


def sheet_size(picture_size: tuple[int, int], rows: int, columns: Sequence[str], *, title: str = "") -> tuple[int, int]:
    """Computes how large a contact sheet will be, before there are pictures and labels.

    Args:
        picture_size: (width, height) in px of every picture.
        rows: how many rows of pictures.
        columns: the header above each column.
        title: the line at the top.

    Returns:
        (width, height) in px.

    Raises:
        ValueError: there is no row or no column, or a picture without pixels.
    """
    return _geometry(picture_size, rows, tuple(columns), title).size


def contact_sheet(
    rows: Sequence[Sequence[Cell]], columns: Sequence[str], labels: Sequence[str], *, title: str = ""
) -> Image.Image:
    """Lays out pictures as a table on white paper; the text grows with the pictures.

    Pictures are never scaled. Texts may hold several lines; they are wrapped to their column and, where there
    are too many lines, the longest are cut with an ellipsis. Control characters are left out, and characters
    that DejaVu Sans lacks (such as Chinese ones) are shown as boxes.

    Args:
        rows: the cells of each row; all pictures have one size.
        columns: the header above each column.
        labels: what stands to the left of each row.
        title: the line at the top.

    Returns:
        Mode RGB, of the size that `sheet_size` computes.

    Raises:
        ValueError: there is no cell, the cells do not make a table with one label a row and one header a
            column, or pictures are empty or differ in size.
    """
    picture_size = _common_size(rows, columns, labels)
    geometry = _geometry(picture_size, len(rows), tuple(columns), title)
    sheet = Image.new("RGB", geometry.size, (_BACKGROUND,) * 3)
    sheet.paste(_draw_lines(geometry.title, geometry.em, geometry.columns_width), (geometry.left(0), geometry.em))
    for column, lines in enumerate(geometry.headers):
        top = geometry.header_bottom - geometry.line * len(lines)
        sheet.paste(_draw_lines(lines, geometry.em, geometry.column_width), (geometry.left(column), top))
    for row, (cells, label) in enumerate(zip(rows, labels, strict=True)):
        _draw_label(sheet, label, geometry, row)
        for column, cell in enumerate(cells):
            _draw_cell(sheet, cell, geometry, row, column)
    return sheet


def _common_size(rows: Sequence[Sequence[Cell]], columns: Sequence[str], labels: Sequence[str]) -> tuple[int, int]:
    if len(rows) != len(labels) or any(len(cells) != len(columns) for cells in rows):
        raise ValueError("a contact sheet takes one label for each row and one header for each column")
    shapes = {(*cell.picture.size, cell.picture.mode) for cells in rows for cell in cells}
    if len(shapes) > 1 or any(mode != "RGB" for _, _, mode in shapes):
        raise ValueError(f"the pictures of a contact sheet are RGB and of one size; these are {sorted(shapes)}")
    width, height, _ = shapes.pop() if shapes else (0, 0, "RGB")
    return width, height


# A request asks several times for one sheet's size, and to wrap 64 headers takes milliseconds.
@lru_cache(maxsize=128)
def _geometry(picture_size: tuple[int, int], rows: int, columns: tuple[str, ...], title: str) -> _Geometry:
    if rows < 1 or not columns or min(picture_size) < 1:
        raise ValueError("a contact sheet has at least one row, one column and one pixel a picture")
    without_text = _Geometry(picture_size, rows, ((),) * len(columns), ())
    font = _font(without_text.em)
    headers = tuple(_fit_lines(text, font, without_text.column_width, _HEADER_LINES) for text in columns)
    return replace(
        without_text, headers=headers, title=_fit_lines(title, font, without_text.columns_width, _TITLE_LINES)
    )


def _draw_label(sheet: Image.Image, label: str, geometry: _Geometry, row: int) -> None:
    width = _COLUMN_EM * geometry.em
    lines = _fit_lines(label, _font(geometry.em), width, geometry.row_height // geometry.line)
    top = geometry.top(row) + (geometry.row_height - geometry.line * len(lines)) // 2
    sheet.paste(_draw_lines(lines, geometry.em, width, centred=False), (geometry.em, top))


def _draw_cell(sheet: Image.Image, cell: Cell, geometry: _Geometry, row: int, column: int) -> None:
    width, height = geometry.picture_size
    left, top = geometry.corner(row, column)
    sheet.paste(cell.picture, (left, top))
    em, padding = round(_NOTE_EM * geometry.em), round(_NOTE_PADDING_EM * geometry.em)
    font, room = _font(em), geometry.column_width if geometry.caption else width
    for line in _fit_lines(cell.note, font, room - 2 * padding, 1):
        block = _draw_lines((line,), em, round(font.getlength(line)) + 2 * padding)
        if geometry.caption:
            sheet.paste(block, (geometry.left(column) + (room - block.width) // 2, top + height))
        else:
            sheet.paste(block, (left + width - block.width, top + height - block.height))


def _draw_lines(lines: _Lines, em: int, width: int, *, centred: bool = True) -> Image.Image:
    """Draws lines of text on an image of their own, so that no glyph reaches beyond it; mode L."""
    image = Image.new("L", (width, _line_px(em) * len(lines)), _BACKGROUND)
    draw, font = ImageDraw.Draw(image), _font(em)
    x, anchor = (width // 2, "ms") if centred else (width, "rs")
    for number, line in enumerate(lines):
        draw.text((x, number * _line_px(em) + round(_BASELINE_EM * em)), line, _TEXT_COLOUR, font, anchor)
    return image


def _fit_lines(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int) -> _Lines:
    """Wraps a text; while it has too many lines, its longest paragraph loses one."""
    lines = [line for line in map(_printable, text.splitlines()) if line]
    paragraphs = [list(islice(_wrap(line, font, width), max_lines + 1)) for line in lines[:max_lines]]
    if len(lines) > max_lines:
        # Something to cut, for an ellipsis in place of the lines that follow.
        paragraphs[-1].append("")
    while sum(map(len, paragraphs)) > max_lines:
        longest = max(paragraphs, key=len)
        longest[-2:] = [_shortened(longest[-2] + longest[-1], font, width)]
    return tuple(line.rstrip() for paragraph in paragraphs for line in paragraph)


def _printable(line: str) -> str:
    """Leaves out what has no glyph or would turn the text around, and composes accents."""
    cut = line[:_MAX_CHARACTERS] + _ELLIPSIS * (len(line) > _MAX_CHARACTERS)
    kept = (c for c in cut if c.isspace() or unicodedata.category(c) not in _UNPRINTABLE)
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))


def _wrap(line: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    wrapped = ""
    for part in _parts(line, font, width):
        if wrapped and font.getlength((wrapped + part).rstrip()) > width:
            yield wrapped
            wrapped = ""
        wrapped += part
    yield wrapped


def _parts(line: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """Splits between words, in words wider than the column after hyphens, and then anywhere."""
    for word in re.split(r"(?<=\s)", line):
        whole = font.getlength(word.rstrip()) <= width
        for part in [word] if whole else re.split(r"(?<=[-_/])", word):
            rest = part
            while font.getlength(rest.rstrip()) > width:
                characters = max(1, _characters_that_fit(rest, font, width))
                yield rest[:characters]
                rest = rest[characters:]
            yield rest


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    characters = _characters_that_fit(line, font, width - font.getlength(_ELLIPSIS))
    return line[:characters].rstrip() + _ELLIPSIS


def _characters_that_fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> int:
    return bisect_right(range(len(text) + 1), width, key=lambda count: font.getlength(text[:count])) - 1


def _line_px(em: int) -> int:
    return round(_LINE_EM * em)


@lru_cache(maxsize=128)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_file(), size_px)


@cache
def _font_file() -> Path:
    """The font that matplotlib carries; the package itself is not imported, which would bring NumPy."""
    package = importlib.util.find_spec("matplotlib")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
