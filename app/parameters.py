"""The fields of a request: their defaults, ranges and the words that an error uses for them."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app.cam.methods import METHODS
from app.cam.utilities import CANONICAL
from app.cam.views import Smooth
from app.imaging.colour import colormap_names
from app.imaging.view import Fit

Include = Literal["heatmap", "overlay", "attribution", "explanation_map", "anti_explanation_map"]
CompareInclude = Literal["sheet", "overlay", "heatmap", "attribution"]
MODEL_PATTERN = r"^[A-Za-z0-9_.-]+$"
_MAX_LISTED = 64
_MAX_LAYERS = 8


def _one_of(names: Iterable[str]) -> AfterValidator:
    allowed = tuple(names)

    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"'{value}' is not one of {', '.join(allowed)}")
        return value

    return AfterValidator(check)


# Both names of a utility mean the same from here on.
_UTILITY_NAME = AfterValidator(CANONICAL.__getitem__)


def _zero_or_from_16(value: int) -> int:
    if 0 < value < 16:
        raise ValueError(f"{value} is between 0 and 16")
    return value


def _as_list(value: object) -> object:
    """Makes a list of a single value; in a string, commas separate the values. None stays None."""
    if value is None:
        return None
    items: list[object] = value if isinstance(value, list) else [value]
    if sum(item.count(",") + 1 for item in items if isinstance(item, str)) > _MAX_LISTED:
        raise ValueError(f"more than {_MAX_LISTED} values")
    return [part for item in items for part in (_split(item) if isinstance(item, str) else [item])]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _as_targets(value: object) -> object:
    """Targets are not cut at commas: labels may hold them. A number is a class index."""
    items = value if isinstance(value, list) else [value]
    return [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in items]


def _no_duplicates(values: list[str]) -> list[str]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"'{value}' is given more than once")
    return values


def _expected(text: str, **schema: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON schema
    return {"expected": text, **schema}


class PredictParameters(BaseModel):
    """The fields of `/v1/predict` besides the image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(
        None,
        pattern=MODEL_PATTERN,
        description="A loaded network; by default the first configured.",
        json_schema_extra=_expected("the name of a loaded network"),
    )
    fit: Fit | None = Field(
        None,
        description="What the network looks at: `crop` its own evaluation view, `stretch` the whole image with "
        "its aspect ratio lost, `pad` the whole image letterboxed; by default what the network is configured with, "
        "which is `crop` unless the operator says otherwise.",
        json_schema_extra=_expected("crop, stretch or pad"),
    )
    top_k: int = Field(
        5,
        ge=1,
        description="How many predictions are listed, at most the number of classes.",
        json_schema_extra=_expected("a whole number from 1 to the number of classes"),
    )


class ExplanationParameters(PredictParameters):
    """The fields that explanations and comparisons share."""

    layer: Annotated[
        Annotated[
            list[Annotated[str, Field(min_length=1)]],
            AfterValidator(_no_duplicates),
            Field(json_schema_extra={"uniqueItems": True}),
        ]
        | None,
        BeforeValidator(_as_list),
    ] = Field(
        None,
        min_length=1,
        max_length=_MAX_LAYERS,
        description="`pre_gap`, `last_conv`, `last_norm`, or the path of any module whose output has a spatial "
        "grid, `MODULE+relu` for the ReLU of it; by default `pre_gap`. May be repeated: the heatmaps are averaged "
        "after normalisation, and `attribution` and `efficiency` become lists in that order.",
        json_schema_extra=_expected(
            f"pre_gap, last_conv, last_norm or a module path, each once, at most {_MAX_LAYERS}"
        ),
    )
    target: Annotated[list[str], BeforeValidator(_as_targets)] = Field(
        default=["predicted"],
        min_length=1,
        description="`predicted`, `least-likely`, a class index or a class label; may be repeated, and all "
        "targets share one pass through the network.",
        json_schema_extra=_expected("predicted, least-likely, a class index or a class label"),
    )
    metrics: bool = Field(
        True,
        description="Whether the six quality figures are computed; they take two more passes, and what the method "
        "itself takes once more.",
        json_schema_extra=_expected("true or false"),
    )
    colormap: Annotated[str, _one_of(colormap_names())] = Field(
        "jet",
        description="A matplotlib colormap for the overlay.",
        json_schema_extra=_expected("the name of a matplotlib colormap", enum=list(colormap_names())),
    )
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Weight of the heatmap in the overlay.",
        json_schema_extra=_expected("a number from 0 to 1"),
    )
    max_side: Annotated[int, AfterValidator(_zero_or_from_16)] = Field(
        1024,
        ge=0,
        le=8192,
        description="Longest side of the overlay in px, from 16; 0 keeps the original size. Never enlarged.",
        json_schema_extra=_expected("0 or a whole number from 16 to 8192", anyOf=[{"const": 0}, {"minimum": 16}]),
    )
    smooth: Smooth = Field(
        "none",
        description="`flip` averages over the image and its mirror image, `flip-scale` over both at the factors "
        "0.9, 1 and 1.1; each view takes a forward pass.",
        json_schema_extra=_expected("none, flip or flip-scale"),
    )
    reference: Literal["none", "shapley-sampling"] = Field(
        "none",
        description="`shapley-sampling` adds `fidelity`: how near each attribution is to the sampled Shapley values "
        "(`permutations`, `tolerance`, `seed`).",
        json_schema_extra=_expected("none or shapley-sampling"),
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="Seed of the methods that draw at random.",
        json_schema_extra=_expected("a whole number from 0 to 2^63 - 1"),
    )
    permutations: int = Field(
        256,
        ge=2,
        le=65536,
        multiple_of=2,
        description="How many permutations `shapley-sampling` draws at most.",
        json_schema_extra=_expected("an even number from 2 to 65536"),
    )
    nodes: int = Field(
        8,
        ge=1,
        le=64,
        description="Nodes of the quadrature of `aumann-shapley`.",
        json_schema_extra=_expected("a whole number from 1 to 64"),
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="`shapley-sampling` stops when no position's standard error is larger, in units of the utility; by "
        "default it draws all permutations.",
        json_schema_extra=_expected("a positive number"),
    )


class ExplainParameters(ExplanationParameters):
    """The fields of `/v1/explain` besides the image."""

    method: Annotated[str, _one_of(METHODS)] = Field(
        "shapleycam",
        description="The attribution method; `/v1/methods` describes each.",
        json_schema_extra=_expected(f"one of {', '.join(METHODS)}", enum=list(METHODS)),
    )
    utility: Annotated[str, _one_of(CANONICAL), _UTILITY_NAME] = Field(
        "rest",
        description="The utility function; `/v1/utilities` describes each.",
        json_schema_extra=_expected(f"one of {', '.join(CANONICAL)}", enum=list(CANONICAL)),
    )
    include: Annotated[list[Include], BeforeValidator(_as_list)] = Field(
        default=["heatmap", "overlay", "attribution"],
        description="What of each explanation is sent.",
        json_schema_extra=_expected("any of heatmap, overlay, attribution, explanation_map, anti_explanation_map"),
    )


class CompareParameters(ExplanationParameters):
    """The fields of `/v1/compare` besides the image."""

    method: Annotated[
        list[Annotated[str, _one_of(METHODS), Field(json_schema_extra={"enum": list(METHODS)})]],
        BeforeValidator(_as_list),
        AfterValidator(_no_duplicates),
    ] = Field(
        default=["shapleycam"],
        min_length=1,
        description="The attribution methods to compare; may be repeated.",
        json_schema_extra=_expected(f"any of {', '.join(METHODS)}, each once", uniqueItems=True),
    )
    utility: Annotated[
        list[Annotated[str, _one_of(CANONICAL), _UTILITY_NAME, Field(json_schema_extra={"enum": list(CANONICAL)})]],
        BeforeValidator(_as_list),
        AfterValidator(_no_duplicates),
    ] = Field(
        default=["rest"],
        min_length=1,
        description="The utility functions to compare; may be repeated.",
        json_schema_extra=_expected(f"any of {', '.join(CANONICAL)}, each once", uniqueItems=True),
    )
    max_side: Annotated[int, AfterValidator(_zero_or_from_16)] = Field(
        256,
        ge=0,
        le=8192,
        description="Longest side of each overlay in px, on the sheet and by itself, from 16; 0 keeps the original "
        "size. Never enlarged.",
        json_schema_extra=_expected("0 or a whole number from 16 to 8192", anyOf=[{"const": 0}, {"minimum": 16}]),
    )
    include: Annotated[list[CompareInclude], BeforeValidator(_as_list)] = Field(
        default=["sheet", "attribution"],
        description="What is sent: the sheet of all overlays, and of each cell its overlay, heatmap and attribution.",
        json_schema_extra=_expected("any of sheet, overlay, heatmap, attribution"),
    )


def list_fields(model: type[PredictParameters]) -> frozenset[str]:
    """The fields that may be repeated."""
    names = frozenset({"layer", "target", "include"})
    return (names | {"method", "utility"} if model is CompareParameters else names) & model.model_fields.keys()
