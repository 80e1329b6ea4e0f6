"""Plots of an evaluation, as PNG and SVG."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from app.evaluation.summary import NetworkSummary

_DPI = 150
_MANY = 2000
_KINDS = ("png", "svg")


def plot_adcc(summaries: Sequence[NetworkSummary], folder: Path) -> list[Path]:
    """Draws the data set's ADCC by method and network, with its 95 % interval; a picture for each layer and utility."""
    written = []
    cells = dict.fromkeys((row.layer, row.utility) for summary in summaries for row in summary.rows)
    for layer, utility in cells:
        rows = {
            summary.network: {
                r.method: r.figures["adcc"] for r in summary.rows if (r.layer, r.utility) == (layer, utility)
            }
            for summary in summaries
        }
        rows = {network: figures for network, figures in rows.items() if figures}
        methods = list(dict.fromkeys(method for figures in rows.values() for method in figures))
        drawn = Figure(figsize=(max(6.5, 1.5 + 0.13 * len(methods) * len(rows)), 5), layout="constrained")
        axes = drawn.add_subplot()
        width = 0.8 / len(methods)
        for number, method in enumerate(methods):
            positions = [position for position, network in enumerate(rows) if method in rows[network]]
            figures = [figures[method] for figures in rows.values() if method in figures]
            heights = [figure.value for figure in figures]
            ends = [[f.value - f.low for f in figures], [f.high - f.value for f in figures]]
            x = [position + (number - (len(methods) - 1) / 2) * width for position in positions]
            colour = mpl.colormaps["tab20"](number % 20)
            axes.bar(x, heights, width, yerr=np.clip(ends, 0, None), label=method, color=colour, error_kw={"lw": 0.8})
        axes.set_xticks(range(len(rows)), list(rows))
        if len(rows) > 2:
            for label in axes.get_xticklabels():
                label.set(rotation=25, ha="right", rotation_mode="anchor")
        axes.set_ylabel("ADCC in percent, higher is better")
        axes.set_ylim(0, 100)
        axes.set_title(f"ADCC at {layer}, utility {utility}; whiskers: 95 % bootstrap intervals", fontsize=10)
        drawn.legend(ncols=5, fontsize=7, loc="outside lower center")
        written += _save(drawn, folder / f"adcc-{_file_name(layer)}-{utility}")
    return written


def plot_pairs(network: str, table: pa.Table, first: str, second: str, folder: Path) -> list[Path]:
    """Draws two methods' ADCC of each image against each other; a picture for each layer and utility."""
    written = []
    table = table.filter(pc.is_null(table["error"]))
    keys = dict.fromkeys(zip(table["layer"].to_pylist(), table["utility"].to_pylist(), strict=True))
    for layer, utility in keys:
        here = pc.and_(pc.equal(table["layer"], layer), pc.equal(table["utility"], utility))
        sides = [_adcc_by_image(table.filter(pc.and_(here, pc.equal(table["method"], m)))) for m in (first, second)]
        images = sorted(set(sides[0]) & set(sides[1]))
        if not images:
            continue
        one, other = (np.array([side[image] for image in images]) for side in sides)
        drawn = Figure(figsize=(5.2, 5.2), layout="constrained")
        axes: Axes = drawn.add_subplot()
        axes.plot([0, 100], [0, 100], color="black", lw=0.8, zorder=3)
        many = len(images) > _MANY
        # As a picture in the SVG, which would have a line of text for each otherwise.
        axes.scatter(other, one, s=4 if many else 12, alpha=0.15 if many else 0.5, linewidths=0, rasterized=many)
        axes.set_xlabel(f"{second}: ADCC of an image in percent")
        axes.set_ylabel(f"{first}: ADCC of an image in percent")
        axes.set_title(
            f"{network}, {layer}, utility {utility}\n"
            f"{first} higher on {np.mean(one > other):.0%} of {len(images):,} images",
            fontsize=9,
        )
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        written += _save(drawn, folder / f"{first}-against-{second}-{network}-{_file_name(layer)}-{utility}")
    return written


def _adcc_by_image(table: pa.Table) -> dict[int, float]:
    pairs = zip(table["index"].to_pylist(), table["adcc"].to_pylist(), strict=True)
    return {index: value for index, value in pairs if value is not None}


def _file_name(layer: str) -> str:
    return layer.replace("/", "_")


def _save(drawn: Figure, stem: Path) -> list[Path]:
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in _KINDS]
    for path in paths:
        drawn.savefig(path, dpi=_DPI)
    return paths
