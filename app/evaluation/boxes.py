"""Localisation: how well heatmaps agree with the boxes that people drew.

That is another question than why a network decided as it did. An explanation is right when it shows what the network
used, be it the snow behind the wolf: neither figure here says whether it does.
"""

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from app.evaluation.dataset import DatasetEntry
from app.evaluation.errors import DataError
from app.imaging.view import View

Heatmap = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Corners = tuple[float, float, float, float]
"""(left, top, right, bottom) of a box, as shares of the image's width and height."""


class Boxes:
    """A folder of annotations in the XML of ImageNet and Pascal VOC, one file an image.

    An annotation belongs to the image of the same path below the data set's folder, or else of the same name.
    """

    def __init__(self, folder: Path) -> None:
        """Finds the files.

        Raises:
            DataError: there is none.
        """
        paths = sorted(folder.rglob("*.xml"))
        if not paths:
            raise DataError(f"--boxes: {folder} holds no annotation (*.xml)")
        self._by_path = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
        self._by_stem: dict[str, list[Path]] = {}
        for path in paths:
            self._by_stem.setdefault(path.stem, []).append(path)

    def of(self, item: DatasetEntry) -> tuple[Corners, ...] | None:
        """The boxes of an image; None where it has none.

        Raises:
            DataError: the file is no annotation, or several have the image's name.
        """
        path = self._path(item)
        if path is None:
            return None
        try:
            return _read(path)
        except (OSError, ElementTree.ParseError, AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
            raise DataError(f"--boxes: {path} is no annotation of boxes: {error!r}") from None

    def fingerprint(self, items: Iterable[DatasetEntry]) -> str:
        """Reads the annotations of all images; changes with every box.

        Raises:
            DataError: a file is no annotation, or an image and its annotation cannot be told from others.
        """
        digest, owners = hashlib.sha256(), dict[Path, DatasetEntry]()
        for item in items:
            path = self._path(item)
            if path is None:
                continue
            if path in owners:
                raise DataError(f"--boxes: {path} could be that of {owners[path].name} and that of {item.name}")
            owners[path] = item
            digest.update(json.dumps([item.index, {"corners": self.of(item)}]).encode())
        return digest.hexdigest()

    def _path(self, item: DatasetEntry) -> Path | None:
        name = PurePosixPath(item.name)
        if exact := self._by_path.get(str(name.with_suffix(""))):
            return exact
        found = self._by_stem.get(name.stem, [])
        if len(found) > 1:
            raise DataError(f"--boxes: {found[0]} and {found[1]} could both be that of {item.name}")
        return found[0] if found else None


def localise(
    heatmap: Heatmap, boxes: Sequence[Corners] | None, size: tuple[int, int], view: View
) -> dict[str, float | None]:
    """Compares a heatmap with the boxes of its image.

    Args:
        heatmap: (height, width), in [0, 1], at the network's input size.
        boxes: that people drew; None where there are none.
        size: (width, height) of the upright original in px.
        view: the part of the original that the heatmap covers.

    Returns:
        `pointing_game` (Zhang et al. 2016, without tolerance): 100 where the strongest position lies in a box, else 0;
        `energy_in_box` (Wang et al. 2020): the share of the heatmap's sum in the boxes, in percent. Both None where no
        box reaches into the view, or the heatmap is all zeros.
    """
    inside = np.zeros(heatmap.shape, dtype=bool)
    for corners in boxes or ():
        rows, columns = _in_view(corners, size, view)
        inside[rows, columns] = True
    total = float(heatmap.sum(dtype=np.float64))
    if not inside.any() or total == 0:
        return {"pointing_game": None, "energy_in_box": None}
    strongest = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    energy = 100 * float(heatmap[inside].sum(dtype=np.float64)) / total
    return {"pointing_game": 100 * float(inside[strongest]), "energy_in_box": energy}


def _in_view(corners: Corners, size: tuple[int, int], view: View) -> tuple[slice, slice]:
    """Rows and columns of the network's input whose centres lie in a box."""
    height, width = view.input_size
    left, top, right, bottom = view.box
    across, down = width / (right - left), height / (bottom - top)
    columns = [(share * size[0] - left) * across for share in corners[::2]]
    rows = [(share * size[1] - top) * down for share in corners[1::2]]
    return _centres(rows, height), _centres(columns, width)


def _centres(span: list[float], count: int) -> slice:
    first, last = (int(np.clip(np.ceil(edge - 0.5), 0, count)) for edge in span)
    return slice(first, last)


def _read(path: Path) -> tuple[Corners, ...]:
    root = ElementTree.parse(path).getroot()  # noqa: S314 - a file of the researcher's own, and expat bounds entities
    width, height = (float(root.find(f"size/{name}").text) for name in ("width", "height"))  # type: ignore[union-attr, arg-type]
    corners = []
    for box in root.iterfind("object/bndbox"):
        # Pixels are counted from 1 to the last one inside.
        edges = [float(box.find(name).text) for name in ("xmin", "ymin", "xmax", "ymax")]  # type: ignore[union-attr, arg-type]
        corners.append(((edges[0] - 1) / width, (edges[1] - 1) / height, edges[2] / width, edges[3] / height))
    return tuple(corners)
