"""The tables' layout, the paper's own figures beside ours, and the plots."""

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.evaluation.plots import plot_adcc, plot_pairs
from app.evaluation.published import presets, published
from app.evaluation.rows import METRICS, ResultRow, table_of
from app.evaluation.summary import summarise
from app.evaluation.tables import to_csv, to_latex, to_markdown
from service_models import CATALOGUE

PAIRS = [("shapleycam", "gradcam")]


def made(network: str = "vgg16", layer: str = "last_conv", utilities: tuple[str, ...] = ("rest",)) -> object:
    chance = np.random.default_rng(0)
    return table_of(
        ResultRow(index=i, image=f"{i}.png", network=network, layer=layer, layer_path="x", method=method,
            utility=utility, label=1, predicted_class=i % 2,
            **{name: float(10 + 5 * place + 20 * chance.random()) for name in METRICS})
        for i in range(50)
        for utility in utilities
        for place, method in enumerate(("gradcam", "shapleycam", "randomcam"))
    )  # fmt: skip


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_marks_the_best_and_the_second_of_each_column_by_its_direction() -> None:
    summary = summarise("vgg16", made(), PAIRS)  # type: ignore[arg-type]
    text = to_markdown([summary], with_published=False)
    assert "vgg16: last_conv, 50 images, utility rest, top-1 50.00 %" in text
    table = [cells(line) for line in text.splitlines() if line.startswith("|")]
    assert table[0] == ["method", "AD ↓", "Coh ↑", "Com ↓", "ADCC ↑", "IC ↑", "ADD ↑"]
    for column, heading in enumerate(table[0][1:], 1):
        of_column = {row[0]: row[column] for row in table[2:5]}
        values = {name: float(re.search(r"\d+\.\d+", cell)[0]) for name, cell in of_column.items()}  # type: ignore[index]
        ordered = sorted(values, key=values.__getitem__, reverse="↑" in heading)
        assert of_column[ordered[0]].startswith("**")
        assert of_column[ordered[1]].startswith("<u>")
        assert of_column[ordered[2]][0].isdigit()
        assert all(re.search(r"\[\d+\.\d+, \d+\.\d+\]$", cell) for cell in of_column.values())
    difference = next(line for line in text.splitlines() if line.startswith("| shapleycam minus gradcam"))
    assert all(re.fullmatch(r"[+-]\d+\.\d+ \[[+-]\d+\.\d+, [+-]\d+\.\d+\]", cell) for cell in cells(difference)[1:])


def test_the_papers_figures_stand_below_ours_with_the_note_on_vgg() -> None:
    summary = summarise("vgg16", made(), PAIRS)  # type: ignore[arg-type]
    text = to_markdown([summary], with_published=True)
    lines = text.splitlines()
    below = lines[next(n for n, line in enumerate(lines) if line.startswith("| shapleycam |")) + 1]
    paper = next(
        row for row in published() if (row.network, row.layer, row.method) == ("vgg16", "last_conv", "shapleycam")
    )
    assert cells(below) == ["*the paper*", *(f"{paper.figures[name]:.2f}" for name in METRICS)]
    assert paper.figures["adcc"] == 76.20
    assert "in-place ReLU" in text
    assert "in-place ReLU" not in to_markdown([summarise("vgg16", made(layer="pre_gap"), PAIRS)], with_published=True)  # type: ignore[arg-type]
    assert "the paper" not in to_markdown([summarise("own", made("own"), PAIRS)], with_published=True)  # type: ignore[arg-type]


def test_csv_holds_every_figure_in_full_and_the_papers_beside() -> None:
    summary = summarise("vgg16", made(), PAIRS)  # type: ignore[arg-type]
    lines = list(csv.DictReader(io.StringIO(to_csv([summary], with_published=True))))
    ours = {line["method"]: line for line in lines if line["source"] == "here"}
    assert set(ours) == {"gradcam", "shapleycam", "randomcam", "shapleycam minus gradcam"}
    for row in summary.rows:
        for name, figure in row.figures.items():
            assert math.isclose(float(ours[row.method][name]), figure.value, abs_tol=1e-6)
            assert math.isclose(float(ours[row.method][f"{name}_low"]), figure.low, abs_tol=1e-6)
    paper = [line for line in lines if line["source"] == "paper"]
    assert len(paper) == 3
    assert all(line["images"] == "50000" and line["adcc"] and not line["adcc_low"] for line in paper)


def test_latex_has_a_row_a_method_and_escapes_names() -> None:
    summary = summarise("my_net", made("my_net"), PAIRS)  # type: ignore[arg-type]
    text = to_latex([summary], with_published=True)
    assert r"my\_net" in text
    assert r"top-1 50.00 \%" in text
    assert text.count(r"\textbf{") == text.count(r"\underline{") == len(METRICS)
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert body.count("&") == 3 * len(METRICS)


def test_latex_has_no_letter_left_that_means_something_there() -> None:
    text = to_latex([summarise("a_b", made("a_b", "x{0}^~\\y"), PAIRS)], with_published=False)  # type: ignore[arg-type]
    assert r"a\_b: x\{0\}\textasciicircum{}\textasciitilde{}\textbackslash{}y" in text


def test_what_ties_for_the_best_is_best_together() -> None:
    table = table_of(
        ResultRow(index=0, image="a.png", network="net", layer="pre_gap", layer_path="x", method=method, utility="rest",
            **dict.fromkeys(METRICS, value))
        for method, value in (("gradcam", 50.001), ("layercam", 50.0), ("hirescam", 40.0), ("cam", 30.0))
    )  # fmt: skip
    rows = to_markdown([summarise("net", table)], with_published=False).splitlines()
    coherency = {cells(line)[0]: cells(line)[2].split(" ")[0] for line in rows if line.startswith("| ")}
    del coherency["method"]
    assert coherency == {"gradcam": "**50.00**", "layercam": "**50.00**", "hirescam": "<u>40.00</u>", "cam": "30.00"}


def test_several_utilities_share_a_block_and_are_told_apart() -> None:
    """As Table 5, which compares the utilities of one method."""
    summary = summarise("resnet18", made("resnet18", "pre_gap", ("rest", "pre-softmax")), PAIRS)  # type: ignore[arg-type]
    text = to_markdown([summary], with_published=True)
    assert text.count("###") == 1
    assert "| gradcam (pre-softmax) |" in text
    assert text.count("the paper") == 4  # three methods of Table 1 with ReST, GradCAM of Table 5 with pre-softmax


def test_the_published_rows_are_all_there_and_agree_with_their_own_adcc() -> None:
    assert len(published()) == 203
    for row in published():
        f = row.figures
        terms = (f["coherency"], 100 - f["complexity"], 100 - f["average_drop"])
        assert abs(3 / sum(1 / term for term in terms) - f["adcc"]) <= 0.06
        assert row.network in CATALOGUE
        assert row.layer in (CATALOGUE[row.network].layers or {})


def test_presets_name_what_the_papers_tables_name() -> None:
    assert set(presets()) == {f"table{number}" for number in range(1, 6)}
    assert presets()["table4"].layers == ("last_norm",)
    assert len(presets()["table4"].networks) == 4
    assert len(presets()["table3"].methods) == 10
    assert presets()["table5"].utilities == ("pre-softmax", "post-softmax", "rest")


@pytest.mark.filterwarnings("ignore:.*pyparsing.*:DeprecationWarning")
def test_plots_are_drawn_as_png_and_svg(tmp_path: Path) -> None:
    rows = made()
    written = plot_adcc([summarise("vgg16", rows, PAIRS)], tmp_path)  # type: ignore[arg-type]
    written += plot_pairs("vgg16", rows, "shapleycam", "gradcam", tmp_path)  # type: ignore[arg-type]
    assert [path.suffix for path in written] == [".png", ".svg"] * 2
    for path in written:
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 10
        else:
            assert "<svg" in path.read_text()
