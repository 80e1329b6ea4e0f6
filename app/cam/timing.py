"""Measures what the parts of a split network take on its device."""

import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.chunks import Checkpoint, images_at_once, no_checkpoint, rows_at_once
from app.cam.cost import LIFTS_TOGETHER, Costs
from app.cam.errors import CamError
from app.cam.heatmap import heatmap, mean_heatmap
from app.cam.sampling import Moments, pairs_at_once, prefixes, values_along
from app.cam.split import SplitNetwork
from app.cam.state import SplitState
from app.cam.utilities import UTILITIES, Logits, Values, values_of_rows
from app.cam.work import SamplingOptions

# A step of measuring takes about as long as this, or one row.
_STEP_S = 0.1
# The part of a row that is Python's: of a map, an explanation and its warnings.
_PYTHON_ROW_S = 6e-4
# What takes longer is timed once.
_LONG_STEP_S = 0.15
_ROWS_TRIED = 16
_PLAYERS_TRIED = 196
_UTILITY = UTILITIES["rest"]


def measure_costs(
    split: SplitNetwork,
    images: Float[Tensor, "one colour height width"],
    image_s: float | None = None,
    checkpoint: Checkpoint = no_checkpoint,
) -> Costs:
    """Measures what the parts of a split network take on its device.

    Args:
        split: the network, run before.
        images: one image on its device.
        image_s: what the whole network takes, where it is known.
        checkpoint: called between the steps.
    """
    device = images.device
    if image_s is None:
        checkpoint()
        batch = images.repeat(images_at_once(images), 1, 1, 1)
        image_s = _seconds(lambda: split.logits(batch), device, repeats=1) / len(batch)
    checkpoint()
    state = split.trunk(images)
    checkpoint()
    head_s = _seconds(lambda: _logits(split, state), device)
    at_once = rows_at_once(state.activations)
    rows = _rows(state, min(at_once, max(1, round(_STEP_S / head_s))))
    if len(rows) > 1:
        checkpoint()
        head_s = _seconds(lambda: _logits(split, rows), device) / len(rows)
    derivatives = _derivative_costs(split, state, head_s, checkpoint)
    checkpoint()
    coalition_s, softmax_s, round_s = _coalitions(split, _logits(split, state), device)
    return Costs(
        image_s=image_s,
        head_row_s=head_s,
        **derivatives,
        empty_row_s=head_s if state.carry else 0.0,
        coalition_s=coalition_s,
        softmax_s=softmax_s,
        round_s=round_s,
        row_s=_row_s(split, images),
    )


def _derivative_costs(
    split: SplitNetwork, state: SplitState, head_s: float, checkpoint: Checkpoint
) -> dict[str, float]:
    """Seconds of a row's first derivative, of its first two, and of its contributions; see `Costs`.

    Of the head alone where it has no such thing: requests for it end with the same error, once the head has run.
    """
    state = split.structure.reduced(state)
    if split.structure.is_closed_form:
        head_s = 0.0
    at_once = split.rows_differentiated_at_once(state.activations)
    count = at_once
    if not split.structure.is_closed_form:
        count = min(at_once, LIFTS_TOGETHER, max(1, round(_STEP_S / (5 * head_s))))
    rows = _rows(state, count)

    def seconds(work: Callable[[SplitState], Tensor], some: SplitState) -> float:
        checkpoint()
        try:
            return max(head_s * len(some), _seconds(partial(work, some), some.activations.device))
        except (CamError, RuntimeError):
            return head_s * len(some)

    one = seconds(lambda some: split.lift_contributions(some, _utility), _rows(state, 1))
    some = _rows(state, min(count, LIFTS_TOGETHER))
    lift_s = one
    if len(some) > 1:
        lift_s = max(0.0, seconds(lambda some: split.lift_contributions(some, _utility), some) - one) / (len(some) - 1)

    def gradients(some: SplitState, *, second_order: bool) -> Tensor:
        return split.differentiate(some, _utility, second_order=second_order).gradients

    return {
        "gradient_row_s": seconds(partial(gradients, second_order=False), rows) / count,
        "hvp_row_s": seconds(partial(gradients, second_order=True), rows) / count,
        "lift_row_s": lift_s,
        "lift_call_s": max(0.0, one - lift_s),
    }


def _utility(logits: Logits) -> Values:
    """All of them in turn, as in the dearest comparison."""
    utilities = list(islice(cycle(UTILITIES.values()), len(logits)))
    return values_of_rows(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device), utilities)


def _coalitions(split: SplitNetwork, logits: Logits, device: torch.device) -> tuple[float, float, float]:
    """Seconds of a coalition's logits, of its utility, and of what is done once for a block of utilities."""
    players = split.grid.height * split.grid.width
    tried = min(max(2, players), _PLAYERS_TRIED)
    targets = torch.zeros(1, dtype=torch.int64, device=device)

    def utility(some: Logits) -> Values:
        return _UTILITY.of(some, targets.expand(len(some)))

    def observe(places: Tensor, between: Logits) -> Tensor:
        moments = Moments.of(places.shape[1], device)
        values = values_along(utility, logits, between, logits, places)
        moments.observe(values, places, SamplingOptions(2 * len(places)))
        return values

    with torch.no_grad():
        places = torch.rand(2 * pairs_at_once(tried), tried).argsort(dim=1).to(device)
        terms = logits.expand(tried, -1).contiguous()
        added = torch.addmm(logits, prefixes(places).to(logits.dtype), terms)
        coalition_s = _seconds(lambda: torch.addmm(logits, prefixes(places).to(logits.dtype), terms), device)
        block_s = _seconds(partial(observe, places, added), device)
        few = torch.tensor([[0, 1], [1, 0]], device=device)
        round_s = _seconds(partial(observe, few, added[:2]), device)
    return coalition_s / len(added) * players / tried, max(0.0, block_s - round_s) / len(added), round_s


def _row_s(split: SplitNetwork, images: Tensor) -> float:
    maps = torch.rand(_ROWS_TRIED, split.grid.height, split.grid.width).to(images)

    def heatmaps() -> Tensor:
        return torch.stack([mean_heatmap(one[None]) for one in heatmap(maps, (images.shape[2], images.shape[3]))])

    return _seconds(heatmaps, images.device) / len(maps) + _PYTHON_ROW_S


def _logits(split: SplitNetwork, state: SplitState) -> Logits:
    with torch.no_grad():
        return split.head(state)


def _rows(state: SplitState, count: int) -> SplitState:
    return state.take(torch.zeros(count, dtype=torch.int64, device=state.activations.device))


def _seconds(work: Callable[[], Tensor], device: torch.device, repeats: int = 2) -> float:
    """The best time of some."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
        if times[-1] > _LONG_STEP_S:
            break
    return min(times)
