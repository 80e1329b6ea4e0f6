"""Localisation: the pointing game and the energy in a box, reckoned by hand and by a plain loop over photographs."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from app.evaluation.boxes import Boxes, Corners, localise
from app.evaluation.dataset import DatasetEntry
from app.evaluation.errors import DataError
from app.imaging.view import make_view
from service_models import Preprocessing
from tests.evaluation.data import EMBEDDED, PHOTOGRAPHS, naive_rows, photographs, rows, run

VIEW = Preprocessing(input_size=(100, 100), resize_size=100)
XML = """<annotation><filename>a</filename><size><width>{0}</width><height>{1}</height><depth>3</depth></size>{2}
</annotation>"""
OBJECT = "<object><name>n1</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"

# Size, and boxes around the cat's face, the cup, the saucer and the rocket; nobody has drawn any for the astronaut.
DRAWN = {
    "chelsea": ((451, 300), [[120, 20, 330, 250]]),
    "coffee": ((600, 400), [[150, 60, 420, 330], [80, 180, 520, 390]]),
    "rocket": ((640, 427), [[300, 80, 345, 400]]),
}
LAYERS = {"pre_gap": "bn2", "last_conv": "conv_head"}
METHODS = ("gradcam", "hirescam", "layercam")


def annotated(folder: Path, size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> tuple[Corners, ...]:
    (folder / "a.xml").write_text(XML.format(*size, "".join(OBJECT.format(*box) for box in boxes)))
    found = Boxes(folder).of(DatasetEntry(0, "deep/a.JPEG", None))
    assert found is not None
    return found


def test_energy_is_the_share_of_the_heatmap_in_the_boxes(tmp_path: Path) -> None:
    heatmap = np.zeros((100, 100), dtype=np.float32)
    heatmap[10:20, 30:50] = 0.5
    heatmap[60:70, 60:70] = 1.0
    view = make_view(100, 100, VIEW)
    # Pixels are counted from 1, and the last one lies inside.
    found = localise(heatmap, annotated(tmp_path, (100, 100), (31, 11, 40, 20)), (100, 100), view)
    assert found == {"pointing_game": 0.0, "energy_in_box": pytest.approx(100 * 50 / 200)}
    both = localise(heatmap, annotated(tmp_path, (100, 100), (31, 11, 50, 20), (65, 61, 100, 100)), (100, 100), view)
    assert both["energy_in_box"] == pytest.approx(100 * 160 / 200)
    hit = localise(heatmap, annotated(tmp_path, (100, 100), (61, 61, 62, 62)), (100, 100), view)
    assert hit["pointing_game"] == 100.0


def test_boxes_follow_the_crop_and_the_size_that_was_annotated(tmp_path: Path) -> None:
    """A picture of 400 x 200 px is seen in its central half; its boxes were drawn at half its size."""
    heatmap = np.zeros((100, 100), dtype=np.float32)
    heatmap[:, 50:] = 1.0
    view = make_view(400, 200, VIEW)
    right_half_of_the_view = annotated(tmp_path, (200, 100), (101, 1, 150, 100))
    assert localise(heatmap, right_half_of_the_view, (400, 200), view)["energy_in_box"] == pytest.approx(100)
    outside = annotated(tmp_path, (200, 100), (1, 1, 40, 100))
    assert localise(heatmap, outside, (400, 200), view) == {"pointing_game": None, "energy_in_box": None}


def test_nothing_is_said_without_boxes_or_without_evidence(tmp_path: Path) -> None:
    view = make_view(100, 100, VIEW)
    none = {"pointing_game": None, "energy_in_box": None}
    assert localise(np.ones((100, 100), dtype=np.float32), None, (100, 100), view) == none
    whole = annotated(tmp_path, (100, 100), (1, 1, 100, 100))
    assert localise(np.zeros((100, 100), dtype=np.float32), whole, (100, 100), view) == none
    assert Boxes(tmp_path).of(DatasetEntry(0, "b.JPEG", None)) is None


@pytest.mark.parametrize("content", ["no xml", "<annotation/>", XML.format(0, 0, OBJECT.format(1, 1, 2, 2))])
def test_annotations_that_are_none_are_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="holds no annotation"):
        Boxes(tmp_path)
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(DataError, match=r"a\.xml is no annotation"):
        Boxes(tmp_path).of(DatasetEntry(0, "a.png", None))


def drawn(folder: Path) -> Path:
    folder.mkdir()
    for name, (size, boxes) in DRAWN.items():
        (folder / f"{name}.xml").write_text(XML.format(*size, "".join(OBJECT.format(*box) for box in boxes)))
    return folder


def test_a_run_with_boxes_finds_what_a_plain_loop_over_the_pixels_finds(tmp_path: Path) -> None:
    data, boxes, out = photographs(tmp_path / "data"), drawn(tmp_path / "boxes"), tmp_path / "out"
    options = ("--data", data, "--boxes", boxes, "--methods", ",".join(METHODS))
    status, said = run("evaluate", *options, "--out", out)
    assert status == 0, said
    job = {
        "network": EMBEDDED, "layers": LAYERS, "methods": METHODS, "utility": "rest",
        "files": [str(data / f"{name}.png") for name in PHOTOGRAPHS], "boxes": {n: b for n, (_, b) in DRAWN.items()},
    }  # fmt: skip
    naive = {(row["image"], row["layer"], row["method"]): row for row in naive_rows(tmp_path, job)}
    found = rows(out, EMBEDDED).to_pylist()
    assert len(found) == len(naive) == len(PHOTOGRAPHS) * len(LAYERS) * len(METHODS)
    for row in found:
        theirs = naive[row["image"], row["layer"], row["method"]]
        assert row["pointing_game"] == theirs["pointing_game"], row
        if row["image"] == "astronaut.png":
            assert row["pointing_game"] is row["energy_in_box"] is None
        else:
            assert row["energy_in_box"] == pytest.approx(theirs["energy_in_box"], abs=0.1), row
    assert {row["pointing_game"] for row in found} == {None, 0.0, 100.0}, "the boxes tell nothing apart"
    _check_tables(out, found)


def _check_tables(out: Path, found: list[dict[str, float]]) -> None:
    status, said = run("tables", out)
    assert status == 0
    assert "| localisation: pointing game ↑ | localisation: energy in box ↑ |" in said
    assert "All rows: localisation: pointing game undefined for 1 images, left out" in said
    with (out / "tables" / "tables.csv").open(newline="") as file:
        table = [line for line in csv.DictReader(file) if " minus " not in line["method"]]
    assert len(table) == len(LAYERS) * len(METHODS)
    for line in table:
        for name in ("pointing_game", "energy_in_box"):
            mine = [row[name] for row in found if (row["layer"], row["method"]) == (line["layer"], line["method"])]
            values = [value for value in mine if value is not None]
            assert float(line[name]) == pytest.approx(sum(values) / 3, abs=1e-5)


def test_boxes_that_have_changed_are_not_mixed_with_others(tmp_path: Path) -> None:
    data, boxes, out = photographs(tmp_path / "data"), drawn(tmp_path / "boxes"), tmp_path / "out"
    options = ("--data", data, "--boxes", boxes, "--out", out, "--methods", "gradcam", "--layers", "pre_gap")
    assert run("evaluate", *options)[0] == 0
    (boxes / "rocket.xml").write_text(XML.format(640, 427, OBJECT.format(1, 1, 2, 2)))
    status, said = run("evaluate", *options, "--resume")
    assert status == 2
    assert "belongs to another evaluation: boxes was" in said
    shutil.rmtree(out)
    (boxes / "rocket.xml").write_text("no xml")
    status, said = run("evaluate", *options)
    assert status == 2
    assert "rocket.xml is no annotation of boxes" in said
    assert not out.exists(), "something that cannot be done was begun"


def test_annotations_are_found_by_path_and_otherwise_by_name(tmp_path: Path) -> None:
    box = OBJECT.format(1, 1, 2, 2)
    for name, size in (("cat/1", 10), ("dog/1", 20), ("deep/down/2", 40), ("3", 50), ("else/3", 60)):
        path = tmp_path / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(XML.format(size, size, box))
    boxes = Boxes(tmp_path)
    for name, size in (("cat/1.jpg", 10), ("dog/1.jpg", 20), ("2.jpg", 40), ("3.png", 50)):
        found = boxes.of(DatasetEntry(0, name, None))
        assert found is not None
        assert found[0][2] == 2 / size
    with pytest.raises(DataError, match=r"could both be that of bird/1\.jpg"):
        boxes.of(DatasetEntry(0, "bird/1.jpg", None))
    items = [DatasetEntry(0, "a/2.jpg", None), DatasetEntry(1, "b/2.jpg", None)]
    with pytest.raises(DataError, match=r"2\.xml could be that of a/2\.jpg and that of b/2\.jpg"):
        boxes.fingerprint(items)
    assert boxes.fingerprint(items[:1]) != boxes.fingerprint([])
