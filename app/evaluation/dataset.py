"""The images of an evaluation: a folder, a tree with a folder for each class, or a list file."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from timm.data import ImageNetInfo

from app.evaluation.errors import DataError
from app.imaging.formats import SUFFIXES
from service_models.labels import IMAGENET_CLASSES

_NAME_AND_LABEL = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, sorted(SUFFIXES)))}))\s+(.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """An image of a data set.

    Attributes:
        index: its place, from 0.
        name: its path below the data set's folder, with forward slashes.
        label: its class as the data set writes it, an index or a name; None where it states none.
    """

    index: int
    name: str
    label: str | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The images of an evaluation, in the order of their names or of their list.

    Attributes:
        folder: that all names are relative to.
        items: the images.
    """

    folder: Path
    items: tuple[DatasetEntry, ...]

    @property
    def is_labelled(self) -> bool:
        """Whether every image has a class."""
        return all(item.label is not None for item in self.items)

    @property
    def fingerprint(self) -> str:
        """Changes with every name and every label."""
        lines = (f"{item.name}\t{item.label}\n" for item in self.items)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def path(self, item: DatasetEntry) -> Path:
        """Where an image lies."""
        return self.folder / item.name

    def class_indices(self, labels: Sequence[str]) -> dict[str, int]:
        """The class index for each label of the data set.

        A label is an index, the name of a class, or a WordNet id (n02123045) where there are ImageNet's 1,000 classes.

        Args:
            labels: the network's class names, in order.

        Raises:
            DataError: a label is no class of the network, or the name of several.
        """
        known: dict[str, list[int]] = {}
        for index, name in enumerate(labels):
            known.setdefault(name, []).append(index)
        if len(labels) == IMAGENET_CLASSES:
            for index, synset in enumerate(ImageNetInfo().label_names()):
                known.setdefault(synset, []).append(index)
        return {label: _index_of(label, known, len(labels)) for label in self._labels()}

    def _labels(self) -> list[str]:
        return list(dict.fromkeys(item.label for item in self.items if item.label is not None))


def read_dataset(data: Path, limit: int | None = None) -> Dataset:
    """Finds the images.

    Args:
        data: a folder with images; a folder of folders, one for each class, whose names are the labels; or a text file
            with an image a line, relative to the file's own folder, and after a tab or spaces its label.
        limit: take the first so many.

    Raises:
        DataError: there is nothing, it cannot be read, it has no image, or a line names an image twice.
    """
    data = data.absolute()  # workers on a cluster have working directories of their own
    try:
        if data.is_dir():
            found, folder = _of_folder(data), data
        elif data.is_file():
            found, folder = _of_list(data), data.parent
        else:
            raise DataError(f"--data: there is no {data}")
        items = tuple(DatasetEntry(index, *pair) for index, pair in enumerate(islice(found, limit)))
    except OSError as error:
        raise DataError(f"--data: {data} cannot be read: {error}") from None
    if not items:
        raise DataError(f"--data: {data} holds no image ({', '.join(sorted(SUFFIXES))})")
    return Dataset(folder, items)


def _of_folder(folder: Path) -> Iterator[tuple[str, str | None]]:
    names = sorted(path.relative_to(folder) for path in _images_below(folder))
    # Images in the folder itself have no class, and then neither have those below it.
    is_tree = all(len(name.parts) > 1 for name in names)
    for name in names:
        yield name.as_posix(), name.parts[0] if is_tree else None


def _images_below(folder: Path) -> Iterator[Path]:
    """All images at any depth; subsets of large sets are often folders of links, so these are followed."""
    above = {str(folder): {folder.resolve()}}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        met = above.pop(parent)
        followed = []
        for name in folders:
            child = Path(parent, name)
            # Hidden folders hold what programs keep for themselves; a link to a folder above has no end.
            if not name.startswith(".") and (resolved := child.resolve()) not in met:
                above[str(child)] = met | {resolved}
                followed.append(name)
        folders[:] = followed
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file():
                yield path


def _raise(error: OSError) -> None:
    raise error


def _of_list(path: Path) -> Iterator[tuple[str, str | None]]:
    try:
        # Other signs that Python takes for ends of lines may stand in names.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"--data: {path} cannot be read as a list of images: {error}") from None
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, label = _split(line.strip())
        if name in seen:
            raise DataError(f"--data: {path}, line {number} names {name} for the second time")
        seen.add(name)
        yield name, label


def _split(line: str) -> tuple[str, str | None]:
    """Name and label of a line; both may hold spaces: a tab, or the image's suffix, tells where the name ends."""
    if "\t" in line:
        name, _, label = line.partition("\t")
        return name.strip(), label.strip() or None
    if Path(line).suffix.lower() in SUFFIXES:
        return line, None
    if match := _NAME_AND_LABEL.fullmatch(line):
        return match[1], match[2]
    name, _, label = line.rpartition(" ")
    return (name.strip(), label) if name else (line, None)


def _index_of(label: str, known: dict[str, list[int]], classes: int) -> int:
    indices = known.get(label, [])
    if len(indices) == 1:
        return indices[0]
    if indices:
        raise DataError(f"--data: the label {label!r} is the name of the classes {indices}: use an index")
    if label.isdecimal() and int(label) < classes:
        return int(label)
    raise DataError(
        f"--data: the label {label!r} is no class of the network: it takes an index from 0 to {classes - 1}, the "
        "name of a class, or ImageNet's WordNet id"
    )
