"""What explanations will take, before they are begun."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.chunks import images_at_once, rows_at_once
from app.cam.maps import Smooth, view_count
from app.cam.methods import Method
from app.cam.questions import Question
from app.cam.split import SplitNetwork
from app.cam.utilities import UTILITIES

_COALITIONS_TRIED = 768
_HEAD_ROWS_TRIED = 32


@dataclass(frozen=True, slots=True)
class Costs:
    """What a split network's parts take on its device, in seconds.

    Attributes:
        image_s: the whole network on one image of a full batch.
        head_row_s: the head alone on one row of a chunk.
        coalition_s: a coalition whose logits are a sum over players, and its utility.
    """

    image_s: float
    head_row_s: float
    coalition_s: float

    def of(self, split: SplitNetwork, question: Question) -> float:
        """What a question's method takes at a layer, besides the pass that everything needs."""
        work = question.method.work(split, question.effort)
        return work.images * self.image_s + work.head_rows * self.head_row_s + work.coalitions * self.coalition_s


def estimate_s(
    splits: Sequence[SplitNetwork],
    costs: Sequence[Costs],
    questions: Sequence[Question],
    *,
    metrics: bool,
    smooth: Smooth,
) -> float:
    """Estimates the time of `engine.explain`.

    Questions about one image share what a method finds out about it; on explanation maps, of which each question has
    its own, nothing is shared.

    Args:
        splits: the layers.
        costs: of each.
        questions: including the references that `explain` adds; see `with_references`.
        metrics: whether quality figures are wanted (not those of references).
        smooth: the views.

    Returns:
        Seconds on an idle device.
    """
    views = view_count(smooth)
    total = 0.0
    for split, cost in zip(splits, costs, strict=True):
        shared = {(q.image, q.method.name, q.effort): cost.of(split, q) for q in questions}
        total += views * (len({q.image for q in questions}) * cost.image_s + sum(shared.values()))
        if metrics:
            again = sum(cost.of(split, q) for q in questions if not q.is_reference)
            total += views * again + (views + 1) * cost.image_s * len(questions)
    return total


def costliest(splits: Sequence[SplitNetwork], costs: Sequence[Costs], questions: Sequence[Question]) -> Method:
    """The method that takes most of the time."""
    return max(questions, key=lambda q: sum(c.of(s, q) for s, c in zip(splits, costs, strict=True))).method


def measure_costs(
    split: SplitNetwork, images: Float[Tensor, "one 3 height width"], image_s: float | None = None
) -> Costs:
    """Measures what the parts of a split network take on its device.

    Args:
        split: the network, run before.
        images: one image on its device.
        image_s: what the whole network takes, where it is known from another layer.
    """
    device = images.device
    batch = images.repeat(images_at_once(images), 1, 1, 1)
    with torch.no_grad():
        if image_s is None:
            image_s = _seconds(lambda: split.head(split.trunk(batch)), device, repeats=1) / len(batch)
        state = split.trunk(images)
        rows = state.take(
            torch.zeros(min(_HEAD_ROWS_TRIED, rows_at_once(state.activations)), dtype=torch.int64, device=device)
        )
        head_row_s = _seconds(lambda: split.head(rows), device) / len(rows)
        terms = split.head(state).expand(split.grid.height * split.grid.width, -1)
        masks = torch.ones(_COALITIONS_TRIED, len(terms), device=device, dtype=terms.dtype)
        targets = torch.zeros(len(masks), dtype=torch.int64, device=device)
        utility = UTILITIES["rest"]
        coalition_s = _seconds(lambda: utility.of(masks @ terms, targets), device) / len(masks)
    return Costs(image_s, head_row_s, coalition_s)


def _seconds(work: Callable[[], Tensor], device: torch.device, repeats: int = 2) -> float:
    """The best time of some."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)
