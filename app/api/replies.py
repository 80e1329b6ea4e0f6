"""Turns an answer of the pipeline into the reply on the wire."""

import base64
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from app.cam.questions import Explanation
from app.imaging import denormalise, encode_png, heatmap_image, overlays
from app.parameters import ExplainParameters
from app.runtime.pipeline import Answer
from app.schemas import (
    AttributionReply,
    Efficiency,
    ExplainReply,
    ExplanationReply,
    MetricsReply,
    Picture,
    Png,
    Prediction,
    PredictReply,
    Timing,
    ViewReply,
)

_HEADER_BYTES = 4096
# A prediction is never shorter than 50 bytes of JSON.
_HEADER_PREDICTIONS = _HEADER_BYTES // 50
_HEADER_LABEL = 100


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
    scores = _Scores(answer)
    return PredictReply(
        model=answer.network.name,
        device=str(answer.network.device),
        weights=answer.network.weights,
        image=_picture(answer),
        view=_view(answer),
        predictions=scores.best(top_k),
        timing_ms=clock.timing(answer, render_started),
    )


def explain_reply(
    answer: Answer, parameters: ExplainParameters, layer: str, layer_path: str, clock: Clock
) -> ExplainReply:
    """The reply of `/v1/explain`; renders the pictures that were asked for."""
    render_started = time.perf_counter()
    scores = _Scores(answer)
    draw = _Painter(answer, parameters)
    explanations = [_explanation(explanation, parameters, scores, draw) for explanation in answer.explanations]
    return ExplainReply(
        model=answer.network.name,
        layer=layer,
        layer_path=layer_path,
        method=parameters.method,
        utility=parameters.utility,
        device=str(answer.network.device),
        weights=answer.network.weights,
        image=_picture(answer),
        view=_view(answer),
        predictions=scores.best(parameters.top_k),
        explanations=explanations,
        timing_ms=clock.timing(answer, render_started),
    )


def header_of(reply: ExplainReply) -> str:
    """The reply for the first target as compact ASCII JSON, at most 4 KiB, without values and pictures.

    Where it would be longer, predictions are left out from the end, then warnings; then the label is cut.
    """
    first = reply.model_copy(
        update={"predictions": reply.predictions[:_HEADER_PREDICTIONS], "explanations": reply.explanations[:1]}
    )
    short = first.model_dump(mode="json")
    explanation = short["explanations"][0]
    if explanation["attribution"] is not None:
        del explanation["attribution"]["values"]
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

    def __init__(self, answer: Answer, parameters: ExplainParameters) -> None:
        self._answer = answer
        self._include = frozenset(parameters.include)
        heatmaps = [explanation.heatmap for explanation in answer.explanations]
        self._overlays = overlays(
            answer.seen.picture.pixels,
            heatmaps,
            answer.seen.view,
            colormap=parameters.colormap,
            alpha=parameters.alpha,
            max_side=parameters.max_side,
        )

    def wants(self, name: str) -> bool:
        return name in self._include

    def overlay(self) -> Png | None:
        """The next explanation's overlay."""
        return png_of(next(self._overlays)) if self.wants("overlay") else None

    def heatmap(self, heatmap: Tensor) -> Png | None:
        return png_of(heatmap_image(heatmap)) if self.wants("heatmap") else None

    def masked(self, name: str, mask: Callable[[], Tensor]) -> Png | None:
        """The network's input with every pixel weighted."""
        if not self.wants(name):
            return None
        return png_of(denormalise(self._answer.images[0] * mask(), self._answer.network.preprocessing))


def png_of(pixels: npt.NDArray[np.uint8]) -> Png:
    """Encodes a picture for a JSON reply."""
    height, width = pixels.shape[:2]
    return Png(width=width, height=height, b64=base64.b64encode(encode_png(pixels)).decode())


def _explanation(
    explanation: Explanation, parameters: ExplainParameters, scores: _Scores, draw: _Painter
) -> ExplanationReply:
    heatmap = explanation.heatmap
    return ExplanationReply(
        target=scores.of(explanation.target_class),
        method=explanation.question.method.name,
        utility=explanation.question.utility.name,
        utility_value=_finite(explanation.utility_value),
        hvp_norm=_finite(explanation.hvp_norm),
        forward_passes=explanation.forward_passes,
        attribution=_attribution(explanation.attribution) if draw.wants("attribution") else None,
        efficiency=_efficiency(explanation),
        heatmap=draw.heatmap(heatmap),
        overlay=draw.overlay(),
        explanation_map=draw.masked("explanation_map", lambda: heatmap),
        anti_explanation_map=draw.masked("anti_explanation_map", lambda: 1 - heatmap),
        metrics=_metrics(explanation.metrics) if parameters.metrics else None,
        warnings=list(explanation.warnings),
    )


def _attribution(attribution: Tensor) -> AttributionReply:
    height, width = attribution.shape
    return AttributionReply(shape=(height, width), values=[_shortest(row) for row in attribution.cpu().numpy()])


def _shortest(row: npt.NDArray[np.floating]) -> list[float | None]:
    """The shortest decimals that read back as the same float32."""
    return [_finite(float(str(value))) for value in row]


def _efficiency(explanation: Explanation) -> Efficiency | None:
    if explanation.available is None:
        return None
    return Efficiency(
        attributed=_finite(explanation.attribution.sum(dtype=torch.float64).item()),
        available=_finite(explanation.available),
    )


def _metrics(metrics: dict[str, float] | None) -> MetricsReply | None:
    if metrics is None:
        return None
    return MetricsReply(**{name: _finite(value) for name, value in metrics.items()})


def _picture(answer: Answer) -> Picture:
    picture = answer.seen.picture
    return Picture(width=picture.width, height=picture.height, format=picture.format)


def _view(answer: Answer) -> ViewReply:
    view = answer.seen.view
    return ViewReply(fit=view.fit, box=view.box, input_size=view.input_size)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _ms(value: float) -> float:
    return round(value, 3)
