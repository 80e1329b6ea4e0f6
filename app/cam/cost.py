"""What explanations will take, before they are begun."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import astuple, dataclass, fields, replace

from app.cam.chunks import IMAGES_AT_ONCE, chunks
from app.cam.maps import questions_at_once
from app.cam.methods import Method
from app.cam.questions import Question
from app.cam.split import Layer
from app.cam.views import Smooth, view_count

# About as many rows have their contributions found together.
LIFTS_TOGETHER = 16


@dataclass(frozen=True, slots=True)
class Costs:
    """What a split network's parts take on its device, in seconds.

    Attributes:
        image_s: the whole network on one image of a full batch.
        head_row_s: the head alone on one row of a chunk.
        gradient_row_s: the head and its first derivative on one row.
        hvp_row_s: the head, its first and its second derivative on one row.
        lift_row_s: the DeepLIFT contributions of one row more.
        lift_call_s: those of some rows together, beyond what each takes.
        empty_row_s: the empty coalition of one row; nothing where it is the same for all.
        coalition_s: a coalition whose logits are a sum over players.
        softmax_s: a utility with a softmax, of the logits of one coalition.
        round_s: what is done once for each block of such utilities.
        row_s: everything else that is done for each view of a question, the heatmap above all.
    """

    image_s: float
    head_row_s: float
    gradient_row_s: float
    hvp_row_s: float
    lift_row_s: float
    lift_call_s: float
    empty_row_s: float
    coalition_s: float
    softmax_s: float
    round_s: float
    row_s: float

    def least(self, other: "Costs") -> "Costs":
        """The less of two measurements, part by part: whatever else ran can only have added to them."""
        return Costs(*map(min, astuple(self), astuple(other)))

    @classmethod
    def of_images(cls, image_s: float) -> "Costs":
        """Where nothing but images through the network takes time."""
        return cls(image_s, *[0.0] * (len(fields(cls)) - 1))

    def of_game(self, layer: Layer, question: Question) -> tuple[float, float]:
        """What a question's method takes at a layer: once for those that share its game, and for each of them."""
        work = question.method.work(layer, question.sampling)
        shared = work.images * self.image_s + work.head_rows * self.head_row_s + work.coalitions * self.coalition_s
        softmax_s = 0.0 if question.utility.name == "pre-softmax" else self.softmax_s
        own = work.gradient_rows * self.gradient_row_s + work.lift_rows * self.lift_row_s
        return shared, own + work.utility_values * softmax_s + work.rounds * self.round_s


def estimate_s(layers: Sequence[Layer], costs: Sequence[Costs], questions: Sequence[Question], smooth: Smooth) -> float:
    """Estimates the time of `engine.explain`.

    Questions about one image that are answered together share what some methods find out about it; on explanation maps,
    of which each question has its own, nothing is shared.

    Args:
        layers: that are explained.
        costs: of each.
        questions: including the references that `explain` adds; see `with_references`.
        smooth: the views.

    Returns:
        Seconds on an idle device.
    """
    views = view_count(smooth)
    measured = [question for question in questions if question.metrics and not question.is_reference]
    images = len({question.image_index for question in questions})
    again = [replace(question, image_index=number) for number, question in enumerate(measured)]
    # One anti-explanation map for each explanation, at the first layer only; with views the classes are settled first.
    total = costs[0].image_s * len(measured) + (costs[0].head_row_s * images if views > 1 else 0.0)
    for layer, cost in zip(layers, costs, strict=True):
        total += views * (images + len(measured)) * cost.image_s + _maps_s(layer, cost, questions, views)
        for chunk in chunks(again, max(1, IMAGES_AT_ONCE["cpu"] // (views + 1))):
            total += _maps_s(layer, cost, chunk, views)
    return total


def costliest(layers: Sequence[Layer], costs: Sequence[Costs], questions: Sequence[Question]) -> Method:
    """The method that takes most of the time."""
    return max(questions, key=lambda q: sum(sum(c.of_game(y, q)) for y, c in zip(layers, costs, strict=True))).method


def _maps_s(layer: Layer, cost: Costs, questions: Sequence[Question], views: int) -> float:
    """What `find_maps` takes."""
    grid = layer.grid
    at_once = questions_at_once(grid.channels * grid.height * grid.width, views)
    total = 0.0
    for chunk in chunks(questions, at_once):
        lifts = views * sum(question.method.work(layer, question.sampling).lift_rows for question in chunk)
        total += views * _chunk_s(layer, cost, chunk) + cost.lift_call_s * math.ceil(lifts / LIFTS_TOGETHER)
    return total


def _chunk_s(layer: Layer, cost: Costs, questions: Sequence[Question]) -> float:
    """What one view of questions that are answered together takes."""
    needs = {need for question in questions for need in question.method.needs}
    query_s = cost.head_row_s
    if "gradients" in needs or "hvp" in needs:
        query_s = cost.hvp_row_s if "hvp" in needs else cost.gradient_row_s
    queries = len(set(map(_query_of, questions)))
    pools = layer.structure.pools
    empty = len({_query_of(question) for question in questions if question.method.is_efficient(pools=pools)})
    games = {_game_of(question): cost.of_game(layer, question)[0] for question in questions}
    own = sum(cost.of_game(layer, question)[1] for question in questions)
    return queries * query_s + empty * cost.empty_row_s + sum(games.values()) + own + len(questions) * cost.row_s


def _query_of(question: Question) -> Hashable:
    """Equal for questions that share the derivatives."""
    return question.image_index, question.utility.name, question.target


def _game_of(question: Question) -> Hashable:
    """Equal for questions that share their method's work."""
    return question.image_index, question.method.name, question.seed, question.sampling
