"""From rows of images to the figures of a data set: means, the data set's ADCC, intervals, paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.evaluation.errors import ResultsError
from app.evaluation.rows import METRICS

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_Key = tuple[str, str, str]
"""Layer, utility and method."""

LOCALISATION = ("pointing_game", "energy_in_box")
_COLUMNS = (*METRICS, *LOCALISATION)
_ADCC = _COLUMNS.index("adcc")
_ADCC_TERMS = ("average_drop", "coherency", "complexity")
_RESAMPLES = 2000
# Multiplied together, so that the figures of all images pass through the processor's caches so many times less often.
_RESAMPLES_AT_ONCE = 50
_LEVEL = 0.95
_SEED = 0


@dataclass(frozen=True, slots=True)
class MeanWithInterval:
    """The mean of a figure over a data set.

    Attributes:
        value: the figure; NaN where it is undefined for every image.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A row of a table.

    Attributes:
        network: its name.
        layer: as it was named.
        method: the attribution method.
        utility: the utility function.
        figures: by name; `adcc` is made of the means of its three, as in the paper. Localisation only where boxes were
            given.
        undefined: for how many images a mean leaves a figure out.
    """

    network: str
    layer: str
    method: str
    utility: str
    figures: dict[str, MeanWithInterval]
    undefined: dict[str, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """One method's figures minus another's, on the same images.

    Attributes:
        network: its name.
        layer: as it was named.
        utility: the utility function.
        first: the method.
        second: the one that is subtracted.
        figures: by name.
    """

    network: str
    layer: str
    utility: str
    first: str
    second: str
    figures: dict[str, MeanWithInterval]


@dataclass(frozen=True, slots=True)
class NetworkSummary:
    """All of one network.

    Attributes:
        network: its name.
        images: how many were evaluated.
        unusable: how many could not be read.
        top1: the share of images whose predicted class is the label, in percent; None without labels.
        rows: one a layer, utility and method.
        differences: those that were asked for.
    """

    network: str
    images: int
    unusable: int
    top1: float | None
    rows: tuple[Summary, ...]
    differences: tuple[Difference, ...]


def data_set_adcc(average_drop: Array, coherency: Array, complexity: Array) -> Array:
    """Harmonic mean of coherency, 100 - complexity and 100 - average drop, from the *means* of the three (Eq. 21)."""
    terms = np.stack([coherency, 100 - complexity, 100 - average_drop])
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = 3 / (1 / terms).sum(axis=0)
    return np.where((terms <= 0).any(axis=0), 0.0, mean)


def summarise(network: str, table: pa.Table, pairs: Sequence[tuple[str, str]] = ()) -> NetworkSummary:
    """Makes the figures of one network.

    Args:
        network: its name.
        table: its rows.
        pairs: methods whose differences are wanted, the second to be subtracted from the first.

    Raises:
        ResultsError: a combination lacks images that others have, or there is no image at all.
    """
    usable = table.filter(pc.is_null(table["error"]))
    if not usable.num_rows:
        raise ResultsError(f"{network}: none of {table.num_rows} images could be used")
    names = list(zip(*(usable[name].to_pylist() for name in ("layer", "utility", "method")), strict=True))
    keys = list(dict.fromkeys(names))
    values = _by_image(network, usable, names, keys)
    images = values.shape[0]
    samples = _resample(values)
    value, valid = np.where(np.isnan(values), 0.0, values).sum(axis=0), (~np.isnan(values)).sum(axis=0)
    means = _means(value, valid)
    rows = tuple(
        _summary_row(network, keys[n], _figures(means[n], samples[:, n]), images - valid[n]) for n in range(len(keys))
    )
    places = {key: n for n, key in enumerate(keys)}
    differences = []
    for layer, utility in dict.fromkeys(key[:2] for key in keys):
        for first, second in pairs:
            one, other = places.get((layer, utility, first)), places.get((layer, utility, second))
            if one is not None and other is not None:
                figures = _figures(means[one] - means[other], samples[:, one] - samples[:, other])
                differences.append(Difference(network, layer, utility, first, second, figures))
    unusable = table.num_rows - usable.num_rows
    return NetworkSummary(network, images, unusable, _top1(usable), rows, tuple(differences))


def _by_image(network: str, table: pa.Table, names: list[_Key], keys: list[_Key]) -> Array:
    """(image, combination, figure), NaN where a figure is undefined.

    Args:
        network: its name.
        table: the usable rows.
        names: the combination of each row.
        keys: the combinations.
    """
    indices = table["index"].to_numpy()
    images, row = np.unique(indices, return_inverse=True)
    if table.num_rows != len(images) * len(keys):
        raise ResultsError(f"{network}: the results hold other combinations for some images than for others")
    numbers = {key: number for number, key in enumerate(keys)}
    column = np.fromiter((numbers[name] for name in names), dtype=np.int64, count=table.num_rows)
    values = np.full((len(images), len(keys), len(_COLUMNS)), np.nan)
    for number, name in enumerate(_COLUMNS):
        values[row, column, number] = table[name].to_numpy(zero_copy_only=False)
    return values


def _means(total: Array, count: Array) -> Array:
    """Means of all figures, the last dimension, with the data set's ADCC in place of the mean of ADCCs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        means = total / count
    means[..., _ADCC] = data_set_adcc(*(means[..., _COLUMNS.index(name)] for name in _ADCC_TERMS))
    return means


def _resample(values: Array) -> Array:
    """(resample, combination, figure): the same draw of images serves all combinations, so differences are paired."""
    images = len(values)
    flat = np.nan_to_num(values.reshape(images, -1))
    valid = (~np.isnan(values)).reshape(images, -1).astype(np.float64)
    both = np.concatenate([flat, valid], axis=1)
    random = np.random.default_rng(_SEED)
    samples = np.empty((_RESAMPLES, both.shape[1]))
    for start in range(0, _RESAMPLES, _RESAMPLES_AT_ONCE):
        drawn = (random.integers(images, size=images) for _ in range(_RESAMPLES_AT_ONCE))
        counts = np.stack([np.bincount(places, minlength=images) for places in drawn])
        samples[start : start + _RESAMPLES_AT_ONCE] = counts.astype(np.float64) @ both
    total, count = np.split(samples, 2, axis=1)
    shape = (_RESAMPLES, *values.shape[1:])
    return _means(total.reshape(shape), count.reshape(shape))


def _figures(values: Array, samples: Array) -> dict[str, MeanWithInterval]:
    figures = {}
    for number, name in enumerate(_COLUMNS):
        drawn = samples[:, number]
        drawn = drawn[~np.isnan(drawn)]
        if len(drawn):
            low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
            figures[name] = MeanWithInterval(float(values[number]), float(low), float(high))
        elif name in METRICS:
            figures[name] = MeanWithInterval(np.nan, np.nan, np.nan)
    return figures


def _summary_row(network: str, key: _Key, figures: dict[str, MeanWithInterval], missing: Array) -> Summary:
    layer, utility, method = key
    # The data set's ADCC is made of means, whatever that of an image is.
    undefined = {
        name: int(count)
        for name, count in zip(_COLUMNS, missing, strict=True)
        if count and name in figures and name != "adcc"
    }
    return Summary(network, layer, method, utility, figures, undefined)


def _top1(table: pa.Table) -> float | None:
    if not table.num_rows or table["label"].null_count:
        return None
    first = pa.TableGroupBy(table.select(["index", "label", "predicted_class"]), "index").aggregate(
        [("label", "min"), ("predicted_class", "min")]
    )
    return 100 * float(pc.mean(pc.equal(first["label_min"], first["predicted_class_min"]).cast(pa.float64())).as_py())
