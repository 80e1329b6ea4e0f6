"""The names of a network's classes."""

import difflib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from torchvision.models import ResNet50_Weights

from service_models.errors import ConfigError
from service_models.files import printable, read_bounded
from service_models.spec import NetworkSpec

IMAGENET_CLASSES = 1000
LONGEST_LABEL = 10_000

_MOST_BYTES = 4 * 2**20
# To compare a text with one label takes some microseconds.
_MOST_COMPARED = 1000
_COMPARED_CHARACTERS = 80


class LabelIndex:
    """Finds classes by their labels; labels are folded once, when it is made.

    No text is looked at that is longer than every label: folding never makes a text shorter, so that it could be none.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._exact = _positions(labels)
        folded = [label.casefold() for label in labels]
        self._folded = _positions(folded)
        self._longest = max(map(len, folded), default=0)

    def __len__(self) -> int:
        return len(self._labels)

    def find(self, text: str) -> tuple[int, ...]:
        """The classes of this very name, without one those whose name differs in case only."""
        if len(text) > self._longest:
            return ()
        return self._exact.get(text) or self._folded.get(text.casefold(), ())

    def close_to(self, text: str) -> list[str]:
        """At most three labels that a caller may have meant; only the first thousand are compared."""
        return difflib.get_close_matches(text[:_COMPARED_CHARACTERS], self._labels[:_MOST_COMPARED], n=3)


def _positions(texts: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """Where each text stands."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for position, text in enumerate(texts):
        found[text].append(position)
    return {text: tuple(positions) for text, positions in found.items()}


def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 ImageNet classes in order, as torchvision names them."""
    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def read_labels(path: Path, where: str) -> tuple[str, ...]:
    """Reads a file of names: one a line, or JSON (`.json`): a list, or an object with the keys 0 to n - 1.

    Args:
        path: of the file, in UTF-8.
        where: what names it, for messages.

    Raises:
        ConfigError: it cannot be read, or holds something that is not a name.
    """
    file = f"{where}: {printable(path)}"
    try:
        text = read_bounded(path, _MOST_BYTES).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error
    if path.suffix == ".json":
        names = _names_in_json(text, file)
    else:
        names = tuple(line.strip() for line in text.rstrip().splitlines())
        if not names or not all(names):
            raise ConfigError(f"{file} has an empty line; it takes one name a line")
    if (longest := max(map(len, names))) > LONGEST_LABEL:
        raise ConfigError(f"{file} has a name of {longest:,} characters; it takes {LONGEST_LABEL:,} at most")
    return names


def _names_in_json(text: str, file: str) -> tuple[str, ...]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not JSON: {printable(error)}") from error
    names = content
    if isinstance(content, dict):
        numbers = [str(number) for number in range(len(content))]
        names = [content[number] for number in numbers] if content.keys() == set(numbers) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f'{file} takes a list of names, or an object with the keys "0" to "n - 1" and names')
    return tuple(names)


def labels_of(spec: NetworkSpec, outputs: int) -> tuple[str, ...]:
    """Class names in order: the spec's own, ImageNet's for 1,000 classes, else "0", "1", ...

    One logit has two labels, the negative one first; where only the positive one is named, as p, the other is "not p".

    Args:
        spec: the network.
        outputs: how many logits it has.

    Raises:
        ConfigError: the spec names more or fewer classes than the network has.
    """
    if outputs == 1 and spec.labels is not None and len(spec.labels) == 1:
        (positive,) = spec.labels
        return f"not {positive}", positive
    classes = 2 if outputs == 1 else outputs
    if spec.labels is None:
        return imagenet_labels() if classes == IMAGENET_CLASSES else tuple(map(str, range(classes)))
    if len(spec.labels) != classes:
        raise ConfigError(
            f"{spec.name}: {len(spec.labels)} labels for a network with {classes} classes; they must be equal"
        )
    return spec.labels
