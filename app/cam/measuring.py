"""Measures explanations: what is left of the score on the explanation map and on its opposite."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.cam.chunks import Pause, chunks, images_at_once
from app.cam.heatmap import mean_heatmap
from app.cam.maps import Map, find_maps
from app.cam.metrics import Metrics, compute_metrics
from app.cam.questions import Explanation
from app.cam.split import SplitNetwork
from app.cam.views import Smooth, Views, view_count, views_of


def measure(
    splits: tuple[SplitNetwork, ...],
    images: Float[Tensor, "batch 3 height width"],
    logits: Float[Tensor, "batch class"],
    explanations: Sequence[Explanation],
    smooth: Smooth,
    pause: Pause,
) -> list[Explanation]:
    """Adds the quality figures to explanations.

    Args:
        splits: the layers that were explained.
        images: normalised.
        logits: of the images.
        explanations: in any order.
        smooth: as they were made.
        pause: called between chunks.
    """
    # Each explanation shows every view of its explanation map, and its anti-explanation map.
    at_once = max(1, images_at_once(images) // (view_count(smooth) + 1))
    return [
        measured
        for chunk in chunks(explanations, at_once)
        for measured in _measure(splits, images, logits, chunk, smooth, pause)
    ]


def _measure(
    splits: tuple[SplitNetwork, ...],
    images: Tensor,
    logits: Tensor,
    explanations: Sequence[Explanation],
    smooth: Smooth,
    pause: Pause,
) -> list[Explanation]:
    pause()
    rows = torch.tensor([e.question.image for e in explanations], device=images.device)
    targets = torch.tensor([e.target_class for e in explanations], device=images.device)
    heatmaps = torch.stack([e.heatmap for e in explanations])
    explained = images[rows] * heatmaps[:, None]
    shown, mirrored = views_of(explained, smooth)
    masked = _Masked(shown, images[rows] * (1 - heatmaps[:, None]), mirrored)
    maps_of, deleted_logits = _explain_again(splits, masked, explanations, pause)

    score, explained_score, deleted_score = (
        _log_probability(scores, targets)
        for scores in (logits[rows], torch.stack([maps[0].logits for maps in maps_of]), deleted_logits)
    )
    again = torch.stack([mean_heatmap(torch.stack([found.heatmap for found in maps])) for maps in maps_of])
    figures = compute_metrics(score, explained_score, deleted_score, heatmaps, again)
    passes = [sum(found.forward_passes for found in maps) + 1 for maps in maps_of]
    return _attach(explanations, figures, passes)


@dataclass(frozen=True, slots=True)
class _Masked:
    """The views of some explanation maps, and their anti-explanation maps."""

    shown: Float[Tensor, "view 3 height width"]
    deleted: Float[Tensor, "explanation 3 height width"]
    mirrored: tuple[bool, ...]


def _explain_again(
    splits: tuple[SplitNetwork, ...],
    masked: _Masked,
    explanations: Sequence[Explanation],
    pause: Pause,
) -> tuple[list[tuple[Map, ...]], Float[Tensor, "explanation class"]]:
    """Explains explanation maps, at each layer for the class already chosen; scores their opposites beside them."""
    questions = [
        replace(e.question, image=number, target=e.target_class, reference=False)
        for number, e in enumerate(explanations)
    ]
    layers = []
    shown = len(masked.shown)
    for split in splits[1:]:
        views = Views(masked.shown, split.trunk(masked.shown), masked.mirrored)
        layers.append(find_maps(split, views, questions, pause, draw=1))
    first = splits[0]
    state = first.trunk(torch.cat((masked.shown, masked.deleted)))
    views = Views(masked.shown, state.part(0, shown), masked.mirrored)
    layers.insert(0, find_maps(first, views, questions, pause, draw=1))
    with torch.no_grad():
        deleted_logits = first.head(state.part(shown, len(state)))
    return list(zip(*layers, strict=True)), deleted_logits


def _log_probability(logits: Tensor, targets: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    return torch.log_softmax(logits.double(), dim=1).gather(1, targets[:, None]).squeeze(1)


def _attach(explanations: Sequence[Explanation], figures: Metrics, passes: list[int]) -> list[Explanation]:
    names = tuple(Metrics.__slots__)
    table = torch.stack([getattr(figures, name) for name in names]).T.tolist()
    attached = []
    for explanation, row, further in zip(explanations, table, passes, strict=True):
        values = dict(zip(names, row, strict=True))
        undefined = sorted(name for name, value in values.items() if value != value)
        warnings = explanation.warnings
        if undefined:
            warnings += (f"undefined, since the class has probability zero: {', '.join(undefined)}",)
        total = explanation.forward_passes + further
        attached.append(replace(explanation, metrics=values, warnings=warnings, forward_passes=total))
    return attached
