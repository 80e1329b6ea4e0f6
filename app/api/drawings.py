"""The pictures of a reply: what is drawn of each explanation, how large it is, and how much memory it may take."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from app.api.pictures import ReplyPictures
from app.api.replies import explained_classes
from app.cam.questions import Explanation
from app.errors import InvalidParameter
from app.imaging.colour import colormap_table
from app.imaging.overlay import Colouring
from app.imaging.png import largest_png
from app.imaging.rendering import Drawing, RenderSpec, SheetText, Size
from app.imaging.sheet import sheet_size
from app.imaging.shrinking import shrunk_size
from app.imaging.tensors import denormalise, heatmap_levels
from app.parameters import CompareParameters, ExplainParameters
from app.runtime.drawn_picture import DrawnPicture
from app.runtime.pipeline import Answer
from app.schemas import Png
from service_models import Network

# The mode of each picture that an explanation can have, in the order in which they are drawn.
_MODES = {"heatmap": "L", "overlay": "RGB", "explanation_map": "RGB", "anti_explanation_map": "RGB"}


@dataclass(frozen=True, slots=True)
class SheetLayout:
    """The contact sheet of a comparison: a row for each target, a column for each method and utility.

    Attributes:
        rows: how many there are.
        columns: the header above each.
        title: at the top.
        max_side: of each picture in px, 0 for the original's.
    """

    rows: int
    columns: tuple[str, ...]
    title: str
    max_side: int

    def size(self, posted: Size) -> Size:
        """(width, height) of the sheet in px, by those of the posted picture."""
        return sheet_size(shrunk_size(posted, self.max_side), self.rows, self.columns, title=self.title)

    def largest_size(self, posted: Size) -> Size:
        """The same, whichever way up the posted picture is, which is not known before it is decoded."""
        return max(self.size(posted), self.size(posted[::-1]), key=math.prod)

    def text(self, answer: Answer) -> SheetText:
        """What the sheet says beside the pictures."""
        labels = tuple(
            f"{target.label}\n{target.probability:.3g}\nclass {target.index}"
            for target in explained_classes(answer)[:: len(self.columns)]
        )
        notes = tuple(_note(explanation.metrics) for explanation in answer.output.explanations)
        picture = answer.decoded.picture
        return SheetText(self.columns, labels, notes, self.title, self.size((picture.width, picture.height)))


@dataclass(frozen=True, slots=True)
class Drawings:
    """All pictures of a reply.

    Attributes:
        parameters: of the request.
        network: that is asked.
        explanations: how many the reply has.
        sheet: is drawn last, from the overlays of all explanations; None where none is wanted.
        max_px: of the explanations' pictures together, and of the sheet; None where memory alone bounds them.
    """

    parameters: ExplainParameters | CompareParameters
    network: Network
    explanations: int
    sheet: SheetLayout | None = None
    max_px: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The pictures of each explanation, in the order in which they are drawn."""
        return tuple(name for name in _MODES if name in self.parameters.include)

    @property
    def base_side(self) -> int | None:
        """Longest side in px of what overlays are laid on, 0 for the original's; None where there are none."""
        return self.parameters.max_side if "overlay" in self.names or self.sheet is not None else None

    def drawn_bytes(self, posted: Size) -> int:
        """What the files may take up, by the (width, height) of the posted picture in px, whichever way up it is.

        Raises:
            InvalidParameter: there would be too many pixels.
        """
        height, width = self.network.preprocessing.input_size
        sizes = dict.fromkeys(self.names, (width, height))
        if "overlay" in sizes:
            sizes["overlay"] = shrunk_size(posted, self.parameters.max_side)
        self._check_px(self.explanations * sum(map(math.prod, sizes.values())), "the cells' pictures")
        needed = self.explanations * sum(largest_png(*size, _MODES[name]) for name, size in sizes.items())
        if self.sheet is not None:
            size = self.sheet.largest_size(posted)
            self._check_px(math.prod(size), "the sheet")
            needed += largest_png(*size, "RGB")
        return needed

    def specs(self, answer: Answer) -> list[RenderSpec]:
        """What is to be drawn: the pictures of each explanation, then the sheet; waits for the device."""
        canvas = answer.decoded.picture.canvas
        colouring = Colouring(colormap_table(self.parameters.colormap), self.parameters.alpha)
        specs = [
            RenderSpec(canvas, colouring, tuple(_drawing(name, answer, explanation) for name in self.names))
            for explanation in answer.output.explanations
        ]
        if self.sheet is not None:
            overlays = tuple(_overlay(explanation.heatmap) for explanation in answer.output.explanations)
            specs.append(RenderSpec(canvas, colouring, overlays, self.sheet.text(answer)))
        return specs

    def add_to(self, reply: ReplyPictures, drawn: Sequence[Sequence[DrawnPicture]]) -> list[dict[str, Png]]:
        """Adds the pictures of the explanations to those of a reply; returns those of each by their names."""
        rows = drawn[: self.explanations]
        return [dict(zip(self.names, map(reply.add, row), strict=True)) for row in rows]

    def _check_px(self, found: int, what: str) -> None:
        if self.max_px is not None and found > self.max_px:
            field = "include" if self.base_side is None else "max_side"
            expected = f"smaller or fewer pictures: {what} have at most {self.max_px} px"
            raise InvalidParameter(f"{what} would have {found} px", field=field, expected=expected)


def _drawing(name: str, answer: Answer, explanation: Explanation) -> Drawing:
    heatmap = explanation.heatmap
    height, width = heatmap.shape
    match name:
        case "overlay":
            return _overlay(heatmap)
        case "heatmap":
            return Drawing("L", (width, height), heatmap_levels(heatmap).tobytes())
        case _:
            mask = heatmap if name == "explanation_map" else 1 - heatmap
            pixels = denormalise(answer.output.image[0] * mask, answer.network.preprocessing)
            return Drawing("RGB" if pixels.shape[-1] > 1 else "L", (width, height), pixels.tobytes())


def _overlay(heatmap: Tensor) -> Drawing:
    height, width = heatmap.shape
    return Drawing("overlay", (width, height), heatmap.detach().float().cpu().numpy().astype(np.float32).tobytes())


def _note(metrics: dict[str, float] | None) -> str:
    if metrics is None:
        return ""
    adcc = metrics["adcc"]
    return f"ADCC {adcc:.1f}" if adcc == adcc else "ADCC undefined"
