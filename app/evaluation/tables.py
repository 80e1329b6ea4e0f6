"""Summaries as the paper lays them out: a block for each network and layer, in Markdown, CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from app.evaluation.published import VGG_NOTE, Published, published
from app.evaluation.rows import METRICS
from app.evaluation.summary import LOCALISATION, Difference, MeanWithInterval, NetworkSummary, Summary

_HEADINGS = {
    "average_drop": ("AD", "down"),
    "coherency": ("Coh", "up"),
    "complexity": ("Com", "down"),
    "adcc": ("ADCC", "up"),
    "increase_in_confidence": ("IC", "up"),
    "average_drop_in_deletion": ("ADD", "up"),
    "pointing_game": ("localisation: pointing game", "up"),
    "energy_in_box": ("localisation: energy in box", "up"),
}
_ARROWS = {"markdown": {"up": "↑", "down": "↓"}, "latex": {"up": r"$\uparrow$", "down": r"$\downarrow$"}}
_LATEX = str.maketrans(
    {letter: rf"\{letter}" for letter in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
_Rank = Literal["best", "second", ""]


@dataclass(frozen=True, slots=True)
class _Block:
    """A network at a layer.

    Attributes:
        summary: of the network.
        layer: as it was named.
        rows: of the layer.
        columns: names of the figures.
        several_utilities: whether rows must name theirs.
    """

    summary: NetworkSummary
    layer: str
    rows: tuple[Summary, ...]
    columns: tuple[str, ...]
    several_utilities: bool

    def name(self, row: Summary) -> str:
        """The method, and the utility where there are several."""
        return f"{row.method} ({row.utility})" if self.several_utilities else row.method

    def rank(self, row: Summary, column: str) -> _Rank:
        """Whether a figure is the best of its column, or the second best."""
        is_up = _HEADINGS[column][1] == "up"
        values = sorted(
            {round(r.figures[column].value, 2) for r in self.rows if not math.isnan(r.figures[column].value)}
        )
        ordered = values[::-1] if is_up else values
        value = round(row.figures[column].value, 2)
        if len(self.rows) < 2 or value not in ordered[:2]:
            return ""
        return "best" if value == ordered[0] else "second"

    def published(self, row: Summary) -> Published | None:
        """The paper's own figures, where it has them."""
        key = (row.network, row.layer, row.method, row.utility)
        return next((p for p in published() if (p.network, p.layer, p.method, p.utility) == key), None)

    def published_cells(self, row: Summary) -> list[str]:
        """The paper's own figures as cells of the columns; none where it has none."""
        paper = self.published(row)
        return [f"{paper.figures[name]:.2f}" if name in paper.figures else "" for name in self.columns] if paper else []

    @property
    def differences(self) -> list[Difference]:
        """Those at the layer."""
        return [difference for difference in self.summary.differences if difference.layer == self.layer]

    @property
    def title(self) -> str:
        """Network, layer and what they were evaluated on."""
        told = [self.layer, f"{self.summary.images:,} images"]
        if not self.several_utilities:
            told.append(f"utility {self.rows[0].utility}")
        if self.summary.top1 is not None:
            told.append(f"top-1 {self.summary.top1:.2f} %")
        if self.summary.unusable:
            told.append(f"{self.summary.unusable} unusable")
        return f"{self.summary.network}: {', '.join(told)}"

    @property
    def notes(self) -> list[str]:
        """Figures that were left out, by method; once where it is the same for all, as without boxes in an image."""
        found: dict[tuple[str, int], list[str]] = {}
        for row in self.rows:
            for name, count in row.undefined.items():
                found.setdefault((name, count), []).append(self.name(row))
        return [
            f"{'All rows' if len(names) == len(self.rows) else ', '.join(names)}: "
            f"{_HEADINGS[name][0]} undefined for {count} images, left out"
            for (name, count), names in found.items()
        ]


def to_markdown(summaries: Sequence[NetworkSummary], *, with_published: bool) -> str:
    """Tables with 95 % intervals in brackets, best in bold, second underlined."""
    parts = []
    for block in _blocks(summaries):
        heads = [f"{_HEADINGS[name][0]} {_ARROWS['markdown'][_HEADINGS[name][1]]}" for name in block.columns]
        lines = [f"### {block.title}", "", f"| method | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
        for row in block.rows:
            cells = [_markdown_cell(row.figures[name], block.rank(row, name)) for name in block.columns]
            lines.append(f"| {block.name(row)} | {' | '.join(cells)} |")
            if with_published and (cells := block.published_cells(row)):
                lines.append(f"| *the paper* | {' | '.join(cells)} |")
        lines += ["", *(f"{note}.  " for note in block.notes)]
        if block.differences:
            lines += ["Paired differences on the same images:", "", f"| difference | {' | '.join(heads)} |"]
            lines += [f"|---|{'---|' * len(heads)}", *(_markdown_difference(d, block) for d in block.differences), ""]
        if with_published and block.summary.network == "vgg16" and block.layer == "last_conv":
            lines += [VGG_NOTE, ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def to_csv(summaries: Sequence[NetworkSummary], *, with_published: bool) -> str:
    """One line a row: every figure with the ends of its interval, differences, and the paper's figures."""
    out = io.StringIO()
    named = [name for name in (*METRICS, *LOCALISATION) if any(name in r.figures for s in summaries for r in s.rows)]
    head = ["source", "network", "layer", "utility", "method", "images"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *(column for name in named for column in (name, f"{name}_low", f"{name}_high"))])
    for block in _blocks(summaries):
        start = [block.summary.network, block.layer]
        for row in block.rows:
            start_of_row = ["here", *start, row.utility, row.method, block.summary.images]
            writer.writerow([*start_of_row, *_csv_cells(row.figures, named)])
            if with_published and (paper := block.published(row)):
                figures = {name: MeanWithInterval(value, math.nan, math.nan) for name, value in paper.figures.items()}
                writer.writerow(["paper", *start, row.utility, row.method, 50_000, *_csv_cells(figures, named)])
        for difference in block.differences:
            name = f"{difference.first} minus {difference.second}"
            cells = _csv_cells(difference.figures, named)
            writer.writerow(["here", *start, difference.utility, name, block.summary.images, *cells])
    return out.getvalue()


def to_latex(summaries: Sequence[NetworkSummary], *, with_published: bool) -> str:
    """Tables for `booktabs`, without intervals, as the paper has them."""
    parts = []
    for block in _blocks(summaries):
        heads = [f"{_HEADINGS[name][0]} {_ARROWS['latex'][_HEADINGS[name][1]]}" for name in block.columns]
        lines = [
            r"\begin{table}",
            rf"\caption{{{_escaped(block.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
            r"\toprule",
            rf"method & {' & '.join(heads)} \\",
            r"\midrule",
        ]
        for row in block.rows:
            cells = [_latex_cell(row.figures[name], block.rank(row, name)) for name in block.columns]
            lines.append(rf"{_escaped(block.name(row))} & {' & '.join(cells)} \\")
            if with_published and (cells := block.published_cells(row)):
                lines.append(rf"\quad the paper & {' & '.join(cells)} \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _blocks(summaries: Sequence[NetworkSummary]) -> Iterator[_Block]:
    for summary in summaries:
        for layer, found in groupby(summary.rows, key=lambda row: row.layer):
            rows = tuple(found)
            columns = tuple(name for name in _HEADINGS if all(name in row.figures for row in rows))
            yield _Block(summary, layer, rows, columns, len({row.utility for row in rows}) > 1)


def _markdown_cell(figure: MeanWithInterval, rank: _Rank) -> str:
    if math.isnan(figure.value):
        return "-"
    value = f"{figure.value:.2f}"
    marked = {"best": f"**{value}**", "second": f"<u>{value}</u>", "": value}[rank]
    return f"{marked} [{figure.low:.2f}, {figure.high:.2f}]"


def _markdown_difference(difference: Difference, block: _Block) -> str:
    cells = [
        "-" if math.isnan(f.value) else f"{f.value:+.2f} [{f.low:+.2f}, {f.high:+.2f}]"
        for f in (difference.figures[name] for name in block.columns)
    ]
    utility = f" ({difference.utility})" if block.several_utilities else ""
    return f"| {difference.first} minus {difference.second}{utility} | {' | '.join(cells)} |"


def _latex_cell(figure: MeanWithInterval, rank: _Rank) -> str:
    if math.isnan(figure.value):
        return "--"
    value = f"{figure.value:.2f}"
    return {"best": rf"\textbf{{{value}}}", "second": rf"\underline{{{value}}}", "": value}[rank]


def _escaped(text: str) -> str:
    return text.translate(_LATEX)


def _csv_cells(figures: dict[str, MeanWithInterval], names: Sequence[str]) -> list[str]:
    missing = MeanWithInterval(math.nan, math.nan, math.nan)
    found = [figures.get(name, missing) for name in names]
    ends = [end for figure in found for end in (figure.value, figure.low, figure.high)]
    return ["" if math.isnan(end) else f"{end:.6f}" for end in ends]
