"""Which images an evaluation finds, and what classes they are said to have."""

from pathlib import Path

import pytest

from app.evaluation.dataset import read_dataset
from app.evaluation.errors import DataError
from service_models.labels import imagenet_labels


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def pairs(data: Path, limit: int | None = None) -> list[tuple[str, str | None]]:
    return [(item.name, item.label) for item in read_dataset(data, limit).items]


def test_a_folder_gives_its_images_by_name_without_labels(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "notes.txt", "more/c.webp")
    assert pairs(tmp_path) == [("a.png", None), ("b.JPG", None), ("more/c.webp", None)]
    assert pairs(tmp_path, 2) == [("a.png", None), ("b.JPG", None)]


def test_a_folder_of_folders_gives_their_names_as_labels(tmp_path: Path) -> None:
    touch(tmp_path, "n02123045/1.jpg", "n02123045/2.jpg", "tench/deep/3.jpg")
    assert pairs(tmp_path) == [
        ("n02123045/1.jpg", "n02123045"),
        ("n02123045/2.jpg", "n02123045"),
        ("tench/deep/3.jpg", "tench"),
    ]


def test_a_list_keeps_its_order_and_its_labels(tmp_path: Path) -> None:
    listed = tmp_path / "val.txt"
    listed.write_text("# a comment\nILSVRC_2.JPEG 65\n\nwith space.png\nwith space 2.png\ttiger cat\nb.png\t7\n")
    assert pairs(listed) == [
        ("ILSVRC_2.JPEG", "65"),
        ("with space.png", None),
        ("with space 2.png", "tiger cat"),
        ("b.png", "7"),
    ]
    dataset = read_dataset(listed)
    assert dataset.folder == tmp_path
    assert not dataset.is_labelled


def test_labels_are_indices_names_or_wordnet_ids(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("a.png\t281\nb.png\ttabby\nc.png\tn02123045\n")
    assert set(read_dataset(listed).class_indices(imagenet_labels()).values()) == {281}
    assert read_dataset(listed).is_labelled


def test_a_label_that_two_classes_share_is_refused(tmp_path: Path) -> None:
    dataset = read_dataset(touch(tmp_path, "crane/1.jpg"))
    with pytest.raises(DataError, match=r"'crane' is the name of the classes \[0, 2\]: use an index"):
        dataset.class_indices(["crane", "dog", "crane"])


@pytest.mark.parametrize("label", ["1000", "no such class", "-1", "n00000000"])
def test_a_label_that_is_no_class_is_named(tmp_path: Path, label: str) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"a.png\t{label}\n")
    with pytest.raises(DataError, match=f"'{label}' is no class.*0 to 999"):
        read_dataset(listed).class_indices(imagenet_labels())


def test_a_wordnet_id_says_nothing_to_a_network_of_other_classes(tmp_path: Path) -> None:
    dataset = read_dataset(touch(tmp_path, "n02123045/1.jpg"))
    assert dataset.class_indices(["n02123045", "dog"]) == {"n02123045": 0}
    with pytest.raises(DataError):
        dataset.class_indices(["cat", "dog"])


def test_data_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no image"):
        read_dataset(tmp_path)
    (tmp_path / "list.txt").write_text("a.png\na.png 3\n")
    with pytest.raises(DataError, match=r"line 2 names a\.png for the second time"):
        read_dataset(tmp_path / "list.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as a list"):
        read_dataset(tmp_path / "binary.txt")


def test_the_fingerprint_follows_names_and_labels(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    prints = set()
    for content in ("a.png 1\nb.png 2\n", "a.png 1\nb.png 3\n", "b.png 2\na.png 1\n"):
        listed.write_text(content)
        prints.add(read_dataset(listed).fingerprint)
    assert len(prints) == 3


def test_labels_and_names_may_hold_spaces(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes("\ufeffa b.png tiger cat\r\nc.JPEG  great grey owl \r\nd.png x.png\r\ne 7\r\n".encode())
    assert pairs(listed) == [("a b.png", "tiger cat"), ("c.JPEG", "great grey owl"), ("d.png x.png", None), ("e", "7")]


def test_links_are_followed_but_not_in_circles_and_what_is_hidden_stays_so(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "deep/1.jpg", "2.jpg")
    data = touch(tmp_path / "data", "cat/3.jpg", "cat/._3.jpg", ".trash/4.jpg")
    (data / "dog").symlink_to(tmp_path / "elsewhere")
    (data / "dog again").symlink_to(tmp_path / "elsewhere")
    (data / "cat" / "up").symlink_to(data)
    (data / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert pairs(data) == [
        ("cat/3.jpg", "cat"),
        ("dog/2.jpg", "dog"),
        ("dog/deep/1.jpg", "dog"),
        ("dog again/2.jpg", "dog again"),
        ("dog again/deep/1.jpg", "dog again"),
    ]


def test_data_that_cannot_be_reached_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_dataset(tmp_path / ("x" * 300))


def test_paths_are_absolute_since_workers_stand_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "data/a.png")
    monkeypatch.chdir(tmp_path)
    dataset = read_dataset(Path("data"))
    assert dataset.path(dataset.items[0]) == tmp_path / "data" / "a.png"
