"""Turns an answer of the pipeline into the reply on the wire."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from app.cam.questions import Explanation, LayerAttribution
from app.imaging.picture import depth_warnings
from app.parameters import CompareParameters, ExplainParameters
from app.runtime.pipeline import Answer
from app.schemas import (
    AttributionReply,
    CompareReply,
    Efficiency,
    ExplainReply,
    ExplanationReply,
    FidelityReply,
    MetricsReply,
    PictureReply,
    Png,
    Prediction,
    PredictReply,
    Timing,
    ViewReply,
)

Item = TypeVar("Item")
# The layers of an answer: their names as replied, with their module paths.
Layers = dict[str, str]

_HEADER_BYTES = 4096
# A prediction is never shorter than 50 bytes of JSON.
_HEADER_PREDICTIONS = _HEADER_BYTES // 50
_HEADER_LABEL = 100
# Positions whose standard errors fit beside all that is never left out.
_HEADER_ERRORS = 100


@dataclass(frozen=True, slots=True)
class Clock:
    """When a request began, and when the drawing of its reply did, on the clock of `time.perf_counter`."""

    started: float
    render_started: float | None = None

    def start_rendering(self) -> "Clock":
        """The clock of an answer whose pictures are drawn from now on."""
        return replace(self, render_started=time.perf_counter())

    def timing(self, answer: Answer) -> Timing:
        """Durations up to now, in milliseconds."""
        now = time.perf_counter()
        render_started = now if self.render_started is None else self.render_started
        return Timing(
            decode=_ms(answer.decoded.decode_ms),
            queue=_ms(answer.queue_ms),
            compute=_ms(answer.compute_ms),
            render=_ms(1e3 * (now - render_started)),
            total=_ms(1e3 * (now - self.started)),
        )


def predict_reply(answer: Answer, top_k: int, clock: Clock) -> PredictReply:
    """The reply of `/v1/predict`."""
    clock = clock.start_rendering()
    return PredictReply(**_common_fields(answer, _Scores(answer), top_k), timing_ms=clock.timing(answer))


def explain_reply(
    answer: Answer, parameters: ExplainParameters, layers: Layers, drawn: Sequence[Mapping[str, Png]], clock: Clock
) -> ExplainReply:
    """The reply of `/v1/explain`.

    Args:
        answer: of the pipeline.
        parameters: of the request.
        layers: names and module paths.
        drawn: the pictures of each explanation by their names.
        clock: of the request.
    """
    return ExplainReply(**_explanation_fields(answer, parameters, layers, drawn), timing_ms=clock.timing(answer))


def compare_reply(
    answer: Answer,
    parameters: CompareParameters,
    layers: Layers,
    drawn: Sequence[Mapping[str, Png]],
    sheet: Png | None,
    clock: Clock,
) -> CompareReply:
    """The reply of `/v1/compare`; `sheet` is the contact sheet, the other arguments are those of `explain_reply`."""
    return CompareReply(
        **_explanation_fields(answer, parameters, layers, drawn), sheet=sheet, timing_ms=clock.timing(answer)
    )


def _common_fields(answer: Answer, scores: "_Scores", top_k: int) -> dict[str, Any]:
    """What every reply says of the network and the picture."""
    picture = answer.decoded.picture
    view = picture.view
    return {
        "model": answer.network.name,
        "device": str(answer.network.device),
        "weights": answer.network.weights,
        "image": PictureReply(width=picture.width, height=picture.height, format=picture.format),
        "view": ViewReply(fit=view.fit, box=view.box, input_size=view.input_size),
        "predictions": scores.best(top_k),
    }


def _explanation_fields(
    answer: Answer,
    parameters: ExplainParameters | CompareParameters,
    layers: Layers,
    drawn: Sequence[Mapping[str, Png]],
) -> dict[str, Any]:
    """What explanations and comparisons say alike."""
    scores = _Scores(answer)
    has_values = "attribution" in parameters.include
    warnings = depth_warnings(answer.decoded.picture.depth, answer.network.preprocessing.max_value)
    return {
        **_common_fields(answer, scores, parameters.top_k),
        "layer": _one_or_all(list(layers)),
        "layer_path": _one_or_all(list(layers.values())),
        "method": parameters.method,
        "utility": parameters.utility,
        "explanations": [
            _explanation(explanation, scores, pictures, warnings, has_values=has_values)
            for explanation, pictures in zip(answer.output.explanations, drawn, strict=True)
        ],
    }


def explained_classes(answer: Answer) -> list[Prediction]:
    """The explained class of each explanation, with its scores."""
    scores = _Scores(answer)
    return [scores.of(explanation.target_class) for explanation in answer.output.explanations]


def header_of(reply: ExplainReply) -> str:
    """The reply for the first target as compact ASCII JSON, at most 4 KiB, without values and pictures.

    Standard errors travel for at most 100 positions in all. Where it would be longer, predictions are left out from
    the end, then warnings, and then the label is cut.
    """
    first = reply.model_copy(
        update={"predictions": reply.predictions[:_HEADER_PREDICTIONS], "explanations": reply.explanations[:1]}
    )
    short = first.model_dump(mode="json")
    explanation = short["explanations"][0]
    attributions = explanation["attribution"] or []
    attributions = attributions if isinstance(attributions, list) else [attributions]
    positions = sum(math.prod(attribution["shape"]) for attribution in attributions)
    for attribution in attributions:
        del attribution["values"]
        if positions > _HEADER_ERRORS:
            attribution["standard_error"] = None
    for name in ("heatmap", "overlay", "explanation_map", "anti_explanation_map"):
        if explanation.get(name) is not None:
            del explanation[name]["b64"]
    for shrinkable in (short["predictions"], explanation["warnings"]):
        while len(text := json.dumps(short, separators=(",", ":"))) > _HEADER_BYTES and shrinkable:
            shrinkable.pop()
    if len(text) > _HEADER_BYTES:
        explanation["target"]["label"] = explanation["target"]["label"][:_HEADER_LABEL]
        text = json.dumps(short, separators=(",", ":"))
    return text


class _Scores:
    """Logits and probabilities of a picture, and the names of the classes."""

    def __init__(self, answer: Answer) -> None:
        self._labels = answer.network.labels
        self._logits = answer.output.logits
        self._probabilities = answer.network.scores.probabilities(answer.output.logits)

    def of(self, index: int) -> Prediction:
        return Prediction(
            index=index,
            label=self._labels[index],
            probability=self._probabilities[index].item(),
            logit=self._logits[index].item(),
        )

    def best(self, count: int) -> list[Prediction]:
        # By logit: probabilities tie where they underflow.
        best = self._logits.argsort(descending=True, stable=True)[:count]
        return [self.of(index) for index in best.tolist()]


def _explanation(
    explanation: Explanation,
    scores: _Scores,
    pictures: Mapping[str, Png],
    warnings: Sequence[str],
    *,
    has_values: bool,
) -> ExplanationReply:
    fidelity = explanation.fidelity
    return ExplanationReply(
        target=scores.of(explanation.target_class),
        method=explanation.question.method.name,
        utility=explanation.question.utility.name,
        utility_value=_finite(explanation.utility_value),
        hvp_norm=_finite(explanation.hvp_norm),
        forward_passes=explanation.forward_passes,
        attribution=_one_or_all([_attribution(layer) for layer in explanation.layers]) if has_values else None,
        efficiency=_one_or_all([_efficiency(layer) for layer in explanation.layers]),
        fidelity=FidelityReply(**_finite_values(asdict(fidelity))) if fidelity is not None else None,
        heatmap=pictures.get("heatmap"),
        overlay=pictures.get("overlay"),
        explanation_map=pictures.get("explanation_map"),
        anti_explanation_map=pictures.get("anti_explanation_map"),
        metrics=MetricsReply(**_finite_values(explanation.metrics)) if explanation.metrics is not None else None,
        warnings=[*warnings, *explanation.warnings],
    )


def _one_or_all(items: list[Item]) -> Item | list[Item]:
    """What the wire has where there may be several layers: the one itself, or a list."""
    return items[0] if len(items) == 1 else items


def _attribution(layer: LayerAttribution) -> AttributionReply:
    height, width = layer.attribution.shape
    errors = layer.standard_error
    known = errors is not None and bool(errors.isfinite().any())
    return AttributionReply(
        shape=(height, width),
        values=_rows(layer.attribution),
        standard_error=_rows(errors) if known and errors is not None else None,
    )


def _rows(grid: Tensor) -> list[list[float | None]]:
    """As the shortest decimals that read back as the same float32."""
    return [[_finite(float(str(value))) for value in row] for row in grid.cpu().numpy()]


def _efficiency(layer: LayerAttribution) -> Efficiency | None:
    if layer.available is None:
        return None
    return Efficiency(
        attributed=_finite(layer.attribution.sum(dtype=torch.float64).item()), available=_finite(layer.available)
    )


def _finite_values(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in figures.items()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _ms(value: float) -> float:
    return round(value, 3)
