"""Draws the pictures of a reply: overlays, maps and contact sheets, as PNG files; with nothing but Pillow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from app.imaging.overlay import Canvas, Colouring, overlay, overlay_bands
from app.imaging.png import bands_of, encode_png, largest_png
from app.imaging.shared import PAGE_BYTES
from app.imaging.sheet import Cell, contact_sheet

Kind = Literal["overlay", "L", "RGB"]
# (width, height) in px.
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture to be drawn.

    Attributes:
        kind: "overlay" of a heatmap on the picture that was posted; "L" or "RGB", pixels as they are.
        size: (width, height) in px of the heatmap, or of the pixels.
        data: the heatmap, HW float32, [0, 1]; or the pixels, 8 bits a channel.
    """

    kind: Kind
    size: Size
    data: bytes

    def drawn_size(self, canvas: Canvas | None) -> Size:
        """(width, height) of the file in px."""
        if self.kind != "overlay":
            return self.size
        assert canvas is not None
        return canvas.size


@dataclass(frozen=True, slots=True)
class SheetText:
    """What a contact sheet says beside its pictures.

    Attributes:
        columns: the header above each.
        labels: to the left of each row.
        notes: in the corner of each picture, row by row.
        title: at the top.
        size: (width, height) of the sheet in px.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    title: str
    size: Size


@dataclass(frozen=True, slots=True)
class RenderSpec:
    """What is to be drawn.

    Attributes:
        canvas: what overlays are laid on; None where there are none.
        colouring: of heat.
        drawings: the pictures.
        sheet: has all of them, which are overlays, drawn as one picture.
    """

    canvas: Canvas | None
    colouring: Colouring
    drawings: tuple[Drawing, ...]
    sheet: SheetText | None = None

    @property
    def outputs(self) -> list[tuple[Size, str]]:
        """(width, height) in px and mode of each file."""
        if self.sheet is not None:
            return [(self.sheet.size, "RGB")]
        return [(d.drawn_size(self.canvas), "L" if d.kind == "L" else "RGB") for d in self.drawings]

    @property
    def pixels(self) -> int:
        """How many are drawn."""
        drawn = [drawing.drawn_size(self.canvas) for drawing in self.drawings]
        return sum(width * height for width, height in (*drawn, *(size for size, _ in self.outputs)))


def file_starts(specs: Sequence[RenderSpec]) -> tuple[list[list[int]], int]:
    """Lays out the files of several specs in one memory: where each starts, and the size of the whole."""
    starts: list[list[int]] = []
    end = 0
    for spec in specs:
        starts.append([])
        for (width, height), mode in spec.outputs:
            starts[-1].append(end)
            end += -(-largest_png(width, height, mode) // PAGE_BYTES) * PAGE_BYTES
    return starts, end


def render(spec: RenderSpec, starts: Sequence[int], base: memoryview, output: memoryview) -> list[int]:
    """Draws pictures into memory.

    Args:
        spec: what.
        starts: where each file begins in the memory.
        base: what overlays are laid on, HWC, RGB, 8 bits.
        output: the memory.

    Returns:
        The length of each file in bytes.
    """
    pictures = zip(_pictures(spec, base), starts, strict=True)
    return [_write(size, mode, bands, output[start:]) for ((size, mode), bands), start in pictures]


def _write(size: Size, mode: str, bands: Iterator[Image.Image], output: memoryview) -> int:
    end = 0

    def write(piece: bytes) -> None:
        nonlocal end
        output[end : end + len(piece)] = piece
        end += len(piece)

    encode_png(size, mode, bands, write)
    return end


def _pictures(spec: RenderSpec, base: memoryview) -> Iterator[tuple[tuple[Size, str], Iterator[Image.Image]]]:
    if spec.sheet is not None:
        yield spec.outputs[0], bands_of(_sheet(spec, spec.sheet, base))
        return
    for drawing, output in zip(spec.drawings, spec.outputs, strict=True):
        if drawing.kind == "overlay":
            assert spec.canvas is not None
            yield output, overlay_bands(base, spec.canvas, _heatmap(drawing), spec.colouring)
        else:
            yield output, bands_of(Image.frombytes(drawing.kind, drawing.size, drawing.data))


def _sheet(spec: RenderSpec, sheet: SheetText, base: memoryview) -> Image.Image:
    assert spec.canvas is not None
    cells = [
        Cell(overlay(base, spec.canvas, _heatmap(drawing), spec.colouring), note)
        for drawing, note in zip(spec.drawings, sheet.notes, strict=True)
    ]
    across = len(sheet.columns)
    rows = [cells[start : start + across] for start in range(0, len(cells), across)]
    return contact_sheet(rows, sheet.columns, sheet.labels, title=sheet.title)


def _heatmap(drawing: Drawing) -> Image.Image:
    return Image.frombytes("F", drawing.size, drawing.data)
