"""The rows of an evaluation, as they stand in its Parquet files."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import pyarrow as pa

from app.cam.metrics import Metrics

METRICS = tuple(field.name for field in fields(Metrics))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One explanation of one image, or an image that could not be used: then all but the first three are None.

    Attributes:
        index: the image's place in the data set.
        image: its name.
        network: the network's name.
        error: why the image could not be used.
        layer: as it was named.
        layer_path: the module.
        method: the attribution method.
        utility: the utility function.
        label: the image's class, where the data set states it.
        predicted_class: the most likely one.
        target_class: the one that is explained.
        probability: of the target class.
        utility_value: U(A), in natural-log units.
        hvp_norm: L2 norm of the Hessian-vector product, where the method uses it.
        average_drop: in percent, as the five that follow; None where undefined.
        coherency: Eq. 19.
        complexity: Eq. 20.
        adcc: Eq. 21, of this image; that of a data set is made of means.
        increase_in_confidence: Eq. 22.
        average_drop_in_deletion: Eq. 23.
        pointing_game: whether the strongest position lies in a box, 100 or 0; localisation.
        energy_in_box: the share of the heatmap in the boxes, in percent; localisation.
        forward_passes: of this explanation alone.
        warnings: what a reader must know.
    """

    index: int
    image: str
    network: str
    error: str | None = None
    layer: str | None = None
    layer_path: str | None = None
    method: str | None = None
    utility: str | None = None
    label: int | None = None
    predicted_class: int | None = None
    target_class: int | None = None
    probability: float | None = None
    utility_value: float | None = None
    hvp_norm: float | None = None
    average_drop: float | None = None
    coherency: float | None = None
    complexity: float | None = None
    adcc: float | None = None
    increase_in_confidence: float | None = None
    average_drop_in_deletion: float | None = None
    pointing_game: float | None = None
    energy_in_box: float | None = None
    forward_passes: int | None = None
    warnings: tuple[str, ...] = ()


_WORDS = pa.dictionary(pa.int32(), pa.string())
_TYPES: dict[str, pa.DataType] = {
    "index": pa.int64(),
    "image": pa.string(),
    **dict.fromkeys(("network", "layer", "layer_path", "method", "utility"), _WORDS),
    "error": pa.string(),
    **dict.fromkeys(("label", "predicted_class", "target_class", "forward_passes"), pa.int32()),
    "warnings": pa.list_(pa.string()),
}
SCHEMA = pa.schema([(field.name, _TYPES.get(field.name, pa.float64())) for field in fields(ResultRow)])


def table_of(rows: Iterable[ResultRow]) -> pa.Table:
    """The rows as a table of Arrow."""
    return pa.Table.from_pylist([asdict(row) | {"image": _as_text(row.image)} for row in rows], schema=SCHEMA)


def _as_text(name: str) -> str:
    """A file's name, with bytes that are no UTF-8 written out."""
    return name.encode(errors="backslashreplace").decode()
