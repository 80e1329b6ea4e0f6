"""Measures explanations: what is left of the score on the explanation map and on its opposite."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.chunks import Checkpoint, chunks, images_at_once
from app.cam.heatmap import mean_heatmap
from app.cam.maps import LayerMaps, find_maps
from app.cam.metrics import Metrics, compute_metrics
from app.cam.questions import Explanation
from app.cam.split import SplitNetwork
from app.cam.utilities import log_probability
from app.cam.views import Smooth, Views, view_count, views_of


def measure(
    splits: tuple[SplitNetwork, ...],
    images: Float[Tensor, "batch colour height width"],
    logits: Float[Tensor, "batch class"],
    explanations: Sequence[Explanation],
    smooth: Smooth,
    checkpoint: Checkpoint,
) -> list[Explanation]:
    """Adds the quality figures to explanations.

    Args:
        splits: the layers that were explained.
        images: normalised.
        logits: of the images.
        explanations: in any order.
        smooth: as they were made.
        checkpoint: called between chunks.
    """
    # Each explanation shows every view of its explanation map, and its anti-explanation map.
    at_once = max(1, images_at_once(images) // (view_count(smooth) + 1))
    return [
        measured
        for chunk in chunks(explanations, at_once)
        for measured in _measure(splits, images, logits, chunk, smooth, checkpoint)
    ]


def _measure(
    splits: tuple[SplitNetwork, ...],
    images: Tensor,
    logits: Tensor,
    explanations: Sequence[Explanation],
    smooth: Smooth,
    checkpoint: Checkpoint,
) -> list[Explanation]:
    checkpoint()
    rows = torch.tensor([e.question.image_index for e in explanations], device=images.device)
    targets = torch.tensor([e.target_class for e in explanations], device=images.device)
    heatmaps = torch.stack([e.heatmap for e in explanations])
    explained = images[rows] * heatmaps[:, None]
    shown, mirrored = views_of(explained, smooth)
    deleted = images[rows] * (1 - heatmaps[:, None])
    maps_of, deleted_logits = _explain_again(splits, shown, mirrored, deleted, explanations, checkpoint)

    score, explained_score, deleted_score = (
        log_probability(of_rows.double(), targets, explanations[0].question.utility.scores)
        for of_rows in (logits[rows], torch.stack([maps[0].logits for maps in maps_of]), deleted_logits)
    )
    again = torch.stack([mean_heatmap(torch.stack([found.heatmap for found in maps])) for maps in maps_of])
    figures = compute_metrics(score, explained_score, deleted_score, heatmaps, again)
    passes = [sum(found.forward_passes for found in maps) + 1 for maps in maps_of]
    return _attach(explanations, figures, passes)


def _explain_again(
    splits: tuple[SplitNetwork, ...],
    shown: Float[Tensor, "view colour height width"],
    mirrored: tuple[bool, ...],
    deleted: Float[Tensor, "explanation colour height width"],
    explanations: Sequence[Explanation],
    checkpoint: Checkpoint,
) -> tuple[list[tuple[LayerMaps, ...]], Float[Tensor, "explanation class"]]:
    """Explains explanation maps, at each layer for the class already chosen; scores their opposites beside them.

    Args:
        splits: the layers.
        shown: the views of the explanation maps.
        mirrored: of the views of one image, which are mirrored.
        deleted: the anti-explanation maps.
        explanations: that are explained again.
        checkpoint: called between chunks.
    """
    questions = [
        replace(e.question, image_index=number, target=e.target_class, reference=False)
        for number, e in enumerate(explanations)
    ]
    layers = []
    for split in splits[1:]:
        views = Views(shown, split.trunk(shown), mirrored)
        layers.append(find_maps(split, views, questions, checkpoint, draw=1))
    first = splits[0]
    state = first.trunk(torch.cat((shown, deleted)))
    views = Views(shown, state.take(slice(len(shown))), mirrored)
    layers.insert(0, find_maps(first, views, questions, checkpoint, draw=1))
    with torch.no_grad():
        deleted_logits = first.head(state.take(slice(len(shown), None)))
    return list(zip(*layers, strict=True)), deleted_logits


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
