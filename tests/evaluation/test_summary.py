"""Means, the data set's ADCC, bootstrap intervals and paired differences, against NumPy by hand and SciPy."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from app.evaluation.errors import ResultsError
from app.evaluation.rows import METRICS, ResultRow, table_of
from app.evaluation.summary import NetworkSummary, summarise

IMAGES = 60
METHODS = ("gradcam", "shapleycam")


def values(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Figures of two methods that share what is hard about an image."""
    chance = np.random.default_rng(seed)
    shared = {name: 60 * chance.random(IMAGES) for name in METRICS}
    return {
        method: {name: np.clip(shared[name] + 8 * chance.random(IMAGES) + 5 * n, 1, 99) for name in METRICS}
        for n, method in enumerate(METHODS)
    }


def table(figures: dict[str, dict[str, Any]], **others: Any) -> Any:
    return table_of(
        ResultRow(index=i, image=f"{i}.png", network="net", layer="pre_gap", layer_path="bn2", method=method,
            utility="rest", **others,
            **{name: None if math.isnan(column[i]) else float(column[i]) for name, column in columns.items()})
        for i in range(IMAGES)
        for method, columns in figures.items()
    )  # fmt: skip


def adcc(drop: float, coherency: float, complexity: float) -> float:
    return 3 / (1 / coherency + 1 / (100 - complexity) + 1 / (100 - drop))


def summary(figures: dict[str, dict[str, np.ndarray]]) -> NetworkSummary:
    return summarise("net", table(figures), [("shapleycam", "gradcam")])


def test_figures_are_means_and_adcc_is_made_of_means_not_the_mean_of_adccs() -> None:
    figures = values()
    for row in summary(figures).rows:
        mine = figures[row.method]
        for name in set(METRICS) - {"adcc"}:
            assert math.isclose(row.figures[name].value, mine[name].mean(), rel_tol=1e-12)
        three = [mine[name] for name in ("average_drop", "coherency", "complexity")]
        assert math.isclose(row.figures["adcc"].value, adcc(*(column.mean() for column in three)), rel_tol=1e-12)
        of_images = np.mean([adcc(*image) for image in zip(*three, strict=True)])
        assert abs(row.figures["adcc"].value - of_images) > 1


def test_intervals_are_those_of_scipys_bootstrap() -> None:
    figures = values()
    found = summary(figures)
    for row in found.rows:
        mine = figures[row.method]
        statistics = {
            "coherency": (("coherency",), lambda x, axis: x.mean(axis=axis)),
            "adcc": (
                ("average_drop", "coherency", "complexity"),
                lambda a, b, c, axis: adcc(a.mean(axis=axis), b.mean(axis=axis), c.mean(axis=axis)),
            ),
        }
        for name, (columns, statistic) in statistics.items():
            expected = stats.bootstrap(
                [mine[column] for column in columns],
                statistic,
                paired=True,
                n_resamples=5000,
                method="percentile",
                rng=1,
            ).confidence_interval
            width = expected.high - expected.low
            assert abs(row.figures[name].low - expected.low) < 0.06 * width
            assert abs(row.figures[name].high - expected.high) < 0.06 * width


def test_differences_are_paired() -> None:
    figures = values()
    (difference,) = summary(figures).differences
    assert (difference.first, difference.second) == ("shapleycam", "gradcam")
    apart = figures["shapleycam"]["coherency"] - figures["gradcam"]["coherency"]
    expected = stats.bootstrap([apart], np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    found = difference.figures["coherency"]
    assert math.isclose(found.value, apart.mean(), rel_tol=1e-9)
    width = expected.high - expected.low
    assert abs(found.low - expected.low) < 0.06 * width
    assert abs(found.high - expected.high) < 0.06 * width
    # What images have in common does not widen it.
    alone = [row.figures["coherency"] for row in summary(figures).rows]
    assert found.high - found.low < 0.5 * min(figure.high - figure.low for figure in alone)


def test_undefined_figures_are_left_out_and_counted() -> None:
    figures = values()
    figures["gradcam"]["average_drop"][:7] = np.nan
    figures["gradcam"]["adcc"][:7] = np.nan
    row = next(row for row in summary(figures).rows if row.method == "gradcam")
    assert row.undefined == {"average_drop": 7}
    assert math.isclose(row.figures["average_drop"].value, figures["gradcam"]["average_drop"][7:].mean(), rel_tol=1e-12)
    assert all(math.isfinite(figure.low) for figure in row.figures.values())


def test_a_method_whose_coherency_is_zero_everywhere_has_adcc_zero() -> None:
    figures = values()
    figures["gradcam"]["coherency"][:] = 0
    row = next(row for row in summary(figures).rows if row.method == "gradcam")
    assert (row.figures["adcc"].value, row.figures["adcc"].high) == (0, 0)


def test_rows_that_do_not_match_are_refused() -> None:
    whole = table(values())
    with pytest.raises(ResultsError, match="other combinations for some images"):
        summarise("net", whole.slice(0, whole.num_rows - 1))
    unusable = table_of([ResultRow(index=0, image="a.png", network="net", error="cut short")])
    with pytest.raises(ResultsError, match="none of 1 images"):
        summarise("net", unusable)


def test_top1_is_counted_once_an_image() -> None:
    labelled = table(values(), label=3, predicted_class=3)
    assert summarise("net", labelled).top1 == 100
    assert summarise("net", table(values())).top1 is None
