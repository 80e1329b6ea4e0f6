"""Turns an answer of the pipeline into the reply on the wire."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from app.api.pictures import Pictures
from app.cam.questions import Explanation, LayerAttribution
from app.imaging.overlay import heatmap_image, overlays
from app.imaging.tensors import denormalise
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
    Picture,
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
    """When a request began."""

    started: float

    def timing(self, answer: Answer, render_started: float) -> Timing:
        """Durations up to now, in milliseconds."""
        now = time.perf_counter()
        return Timing(
            decode=_ms(answer.seen.decode_ms),
            queue=_ms(answer.queue_ms),
            compute=_ms(answer.compute_ms),
            render=_ms(1e3 * (now - render_started)),
            total=_ms(1e3 * (now - self.started)),
        )


def predict_reply(answer: Answer, top_k: int, clock: Clock) -> PredictReply:
    """The reply of `/v1/predict`."""
    render_started = time.perf_counter()
    return PredictReply(**_head(answer, _Scores(answer), top_k), timing_ms=clock.timing(answer, render_started))


def explain_reply(
    answer: Answer, parameters: ExplainParameters, layers: Layers, pictures: Pictures, clock: Clock
) -> ExplainReply:
    """The reply of `/v1/explain`; renders the pictures that were asked for, and adds them to `pictures`."""
    render_started = time.perf_counter()
    scores = _Scores(answer)
    draw = _Painter(answer, parameters, pictures)
    return ExplainReply(
        **_head(answer, scores, parameters.top_k),
        **_asked(parameters, layers),
        explanations=[_explanation(explanation, scores, draw) for explanation in answer.explanations],
        timing_ms=clock.timing(answer, render_started),
    )


def compare_reply(
    answer: Answer,
    parameters: CompareParameters,
    layers: Layers,
    draw_sheet: Callable[[], npt.NDArray[np.uint8]],
    pictures: Pictures,
    clock: Clock,
) -> CompareReply:
    """The reply of `/v1/compare`.

    Args:
        answer: of the pipeline.
        parameters: of the request.
        layers: names and module paths.
        draw_sheet: makes the contact sheet.
        pictures: takes the sheet.
        clock: when the request began.
    """
    render_started = time.perf_counter()
    scores = _Scores(answer)
    return CompareReply(
        **_head(answer, scores, parameters.top_k),
        **_asked(parameters, layers),
        explanations=[_explanation(explanation, scores, None) for explanation in answer.explanations],
        sheet=pictures.add(draw_sheet()),
        timing_ms=clock.timing(answer, render_started),
    )


def _head(answer: Answer, scores: "_Scores", top_k: int) -> dict[str, Any]:
    """What every reply says of the network and the picture."""
    return {
        "model": answer.network.name,
        "device": str(answer.network.device),
        "weights": answer.network.weights,
        "image": _picture(answer),
        "view": _view(answer),
        "predictions": scores.best(top_k),
    }


def _asked(parameters: ExplainParameters | CompareParameters, layers: Layers) -> dict[str, Any]:
    """What was asked, in the words of the request."""
    return {
        "layer": _one_or_all(list(layers)),
        "layer_path": _one_or_all(list(layers.values())),
        "method": parameters.method,
        "utility": parameters.utility,
    }


def predictions_of(answer: Answer) -> list[Prediction]:
    """The explained class of each explanation, with its scores."""
    scores = _Scores(answer)
    return [scores.of(explanation.target_class) for explanation in answer.explanations]


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
        self._logits = answer.logits
        self._probabilities = torch.softmax(answer.logits, dim=0)

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


class _Painter:
    """Makes the pictures of each explanation that were asked for."""

    def __init__(self, answer: Answer, parameters: ExplainParameters, pictures: Pictures) -> None:
        self._answer = answer
        self._pictures = pictures
        self._include = frozenset(parameters.include)
        heatmaps = [explanation.heatmap for explanation in answer.explanations]
        picture = answer.seen.picture
        if picture.base is not None:
            self._overlays = overlays(
                picture.base,
                (picture.width, picture.height),
                heatmaps,
                answer.seen.picture.view,
                colormap=parameters.colormap,
                alpha=parameters.alpha,
            )

    def wants(self, name: str) -> bool:
        return name in self._include

    def overlay(self) -> Png | None:
        """The next explanation's overlay."""
        return self._pictures.add(next(self._overlays)) if self.wants("overlay") else None

    def heatmap(self, heatmap: Tensor) -> Png | None:
        return self._pictures.add(heatmap_image(heatmap)) if self.wants("heatmap") else None

    def masked(self, name: str, mask: Callable[[], Tensor]) -> Png | None:
        """The network's input with every pixel weighted."""
        if not self.wants(name):
            return None
        return self._pictures.add(denormalise(self._answer.images[0] * mask(), self._answer.network.preprocessing))


def _explanation(explanation: Explanation, scores: _Scores, draw: _Painter | None) -> ExplanationReply:
    """One explanation; without a painter it has no pictures."""
    heatmap = explanation.heatmap
    fidelity = explanation.fidelity
    return ExplanationReply(
        target=scores.of(explanation.target_class),
        method=explanation.question.method.name,
        utility=explanation.question.utility.name,
        utility_value=_finite(explanation.utility_value),
        hvp_norm=_finite(explanation.hvp_norm),
        forward_passes=explanation.forward_passes,
        attribution=_one_or_all([_attribution(layer) for layer in explanation.layers])
        if draw is None or draw.wants("attribution")
        else None,
        efficiency=_one_or_all([_efficiency(layer) for layer in explanation.layers]),
        fidelity=FidelityReply(**_finite_values(asdict(fidelity))) if fidelity is not None else None,
        heatmap=draw.heatmap(heatmap) if draw else None,
        overlay=draw.overlay() if draw else None,
        explanation_map=draw.masked("explanation_map", lambda: heatmap) if draw else None,
        anti_explanation_map=draw.masked("anti_explanation_map", lambda: 1 - heatmap) if draw else None,
        metrics=MetricsReply(**_finite_values(explanation.metrics)) if explanation.metrics is not None else None,
        warnings=list(explanation.warnings),
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
    return [_shortest(row) for row in grid.cpu().numpy()]


def _shortest(row: npt.NDArray[np.floating]) -> list[float | None]:
    """The shortest decimals that read back as the same float32."""
    return [_finite(float(str(value))) for value in row]


def _efficiency(layer: LayerAttribution) -> Efficiency | None:
    if layer.available is None:
        return None
    return Efficiency(
        attributed=_finite(layer.attribution.sum(dtype=torch.float64).item()),
        available=_finite(layer.available),
    )


def _finite_values(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in figures.items()}


def _picture(answer: Answer) -> Picture:
    picture = answer.seen.picture
    return Picture(width=picture.width, height=picture.height, format=picture.format)


def _view(answer: Answer) -> ViewReply:
    view = answer.seen.picture.view
    return ViewReply(fit=view.fit, box=view.box, input_size=view.input_size)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _ms(value: float) -> float:
    return round(value, 3)
