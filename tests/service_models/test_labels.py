"""Class names."""

from pathlib import Path

import pytest

from service_models import NetworkSpec
from service_models.errors import ConfigError
from service_models.labels import LabelIndex, labels_of, read_labels
from tests.operators_files import UNREADABLE

SPEC = NetworkSpec("birds", "timm", "resnet18")


def test_a_thousand_classes_are_those_of_imagenet() -> None:
    labels = labels_of(SPEC, 1000)

    assert (labels[0], labels[281], labels[999]) == ("tench", "tabby", "toilet tissue")


def test_other_numbers_of_classes_are_numbered() -> None:
    assert labels_of(SPEC, 3) == ("0", "1", "2")


def test_names_and_classes_must_agree_in_number() -> None:
    with pytest.raises(ConfigError, match="2 labels for a network with 3 classes"):
        labels_of(NetworkSpec("birds", "timm", "resnet18", labels=("a", "b")), 3)


def test_a_file_has_a_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("magpie\r\n wrén \nmaillot, tank suit\n\n".encode())

    assert read_labels(path, "birds") == ("magpie", "wrén", "maillot, tank suit")


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_at_once_and_in_a_line(tmp_path: Path, kind: str) -> None:
    make, message = UNREADABLE[kind]
    path = tmp_path / "labels.txt"
    make(path)
    with pytest.raises(ConfigError, match=f"birds: .*labels.txt (cannot be read|is not UTF-8): .*({message}|byte)"):
        read_labels(path, "birds")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has an empty line"),
        (b"\n\n", "has an empty line"),
        (b"a\n\nb\n", "has an empty line"),
        (b"a" * 10_001, "has a name of 10,001 characters"),
        (b"a" * 10_000_000, "is larger than"),
        (b"label\n" * 2_000_000, "is larger than"),
    ],
)
def test_a_file_that_names_no_classes_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / ("l" * 230)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_labels(path, "birds")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("Straße", (0,)),
        ("STRASSE", (0, 3)),
        ("straße", (0, 3)),
        ("strasse", (3,)),
        ("Crane", (1, 2)),
        ("crane", (1, 2)),
        ("ﬃx", (4,)),
        ("FFIX", (4,)),
        ("i̇", (5,)),
        ("", ()),
        ("x" * 8, ()),
    ],
)
def test_a_class_is_found_by_its_very_name_or_by_its_letters(text: str, classes: tuple[int, ...]) -> None:
    index = LabelIndex(("Straße", "Crane", "Crane", "strasse", "ffix", "İ"))
    assert index.find(text) == classes


class Unfoldable(str):
    """A text that nobody may look at."""

    def casefold(self) -> str:
        raise AssertionError("it was folded")

    def __hash__(self) -> int:
        raise AssertionError("it was hashed")

    def __getitem__(self, _at: object) -> str:
        return "close"


def test_a_text_longer_than_all_labels_is_not_looked_at() -> None:
    index = LabelIndex(("ß" * 10, "closer"))
    assert index.find("S" * 20) == (0,)
    assert index.find(Unfoldable("s" * 21)) == ()
    assert index.close_to(Unfoldable("s" * 21)) == ["closer"]
