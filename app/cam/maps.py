"""Attributions and heatmaps of a batch at one layer, before their quality is measured.

A row is one view of one question. Rows with the same view, utility and target ask the head the same query, and each
query is answered once. `find_maps` takes as many questions together as the memory holds, and for these: answers the
queries, applies each method to all of its rows, finds what there is to attribute, and averages over the views.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.cam.chunks import Checkpoint, chunks, rows_at_once, rows_held_at_once
from app.cam.game import Game, GameRow, PassCounter
from app.cam.heads import PooledLinearHead
from app.cam.heatmap import heatmap, mean_heatmap
from app.cam.methods import Estimate, Evidence
from app.cam.methods.registry import Method, Need
from app.cam.queries import HeadAnswers, HeadQuery, answer_queries, distinct_queries, states_of
from app.cam.questions import LayerAttribution, Question
from app.cam.split import SplitNetwork
from app.cam.state import SplitState
from app.cam.utilities import values_of_rows
from app.cam.views import Views


@dataclass(frozen=True, slots=True)
class LayerMaps:
    """A question's answer at one layer; all but the logits are means over the views, except where stated.

    Attributes:
        target_class: index of the explained class.
        logits: of the image itself.
        utility_value: of the image itself.
        hvp_norm: of the image itself; None where the method does not use it.
        layer: the attribution.
        heatmap: in [0, 1], at the network's input size.
        forward_passes: of all views.
    """

    target_class: int
    logits: Float[Tensor, " class"]
    utility_value: float
    hvp_norm: float | None
    layer: LayerAttribution
    heatmap: Float[Tensor, "height width"]
    forward_passes: int


def find_maps(
    split: SplitNetwork, views: Views, questions: Sequence[Question], checkpoint: Checkpoint, *, draw: int = 0
) -> list[LayerMaps]:
    """Answers all questions at one layer.

    Args:
        split: network split there.
        views: of all images that the questions are about.
        questions: in any order; with several views their targets must be class indices.
        checkpoint: called between chunks; it may raise to abandon the work.
        draw: which random draw a method that draws uses; 0 for images, 1 for their explanation maps.

    Raises:
        MethodError: a method cannot be used here.
        TargetError: a target class does not exist.
    """
    maps = []
    for chunk in chunks(questions, questions_at_once(views.state.activations[0].numel(), views.count)):
        checkpoint()
        rows = _ask_head(split, views, chunk, checkpoint)
        attributed = _attribute(rows, draw, checkpoint)
        available = _available(rows, checkpoint)
        maps.extend(_mean_over_views(rows, attributed, available))
    return maps


def questions_at_once(elements: int, views: int) -> int:
    """How many questions are answered together, where each view of each has so many activations."""
    return max(1, rows_held_at_once(elements) // views)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of some questions, and what the head answers to their queries.

    Attributes:
        split: the network.
        views: of all images.
        questions: of each row; the views of a question are consecutive.
        queries: the distinct ones of all rows.
        query_of_row: the number of each row's query.
        state: of each query.
        answers: to each query.
    """

    split: SplitNetwork
    views: Views
    questions: list[Question]
    queries: list[HeadQuery]
    query_of_row: list[int]
    state: SplitState
    answers: HeadAnswers


def _ask_head(split: SplitNetwork, views: Views, questions: Sequence[Question], checkpoint: Checkpoint) -> _Rows:
    """Makes a row of each view of each question, and runs the head once for each distinct query."""
    queries, query_of_row = distinct_queries(questions, views.count)
    state = states_of(views.state, queries)
    needs: set[str] = {need for question in questions for need in question.method.needs}
    answers = answer_queries(split, state, queries, needs, checkpoint)
    of_rows = [question for question in questions for _ in range(views.count)]
    return _Rows(split, views, of_rows, queries, query_of_row, state, answers)


@dataclass(frozen=True, slots=True)
class _Attributed:
    """Attributions of rows; standard errors of those that were sampled, zero elsewhere."""

    attributions: Float[Tensor, "row grid_height grid_width"]
    standard_errors: Float[Tensor, "row grid_height grid_width"]
    sampled: set[int]
    extra_passes: list[int]


def _attribute(rows: _Rows, draw: int, checkpoint: Checkpoint) -> _Attributed:
    """Applies each row's method, all rows of one method at once."""
    count = len(rows.questions)
    attributions = rows.state.activations.new_empty(count, *rows.state.activations.shape[2:])
    found = _Attributed(attributions, torch.zeros_like(attributions), set(), [0] * count)
    for method in {question.method.name: question.method for question in rows.questions}.values():
        chosen = [row for row, question in enumerate(rows.questions) if question.method.name == method.name]
        passes = PassCounter()
        result = method.attribute(_evidence(rows, method, chosen, draw, passes, checkpoint))
        index = torch.tensor(chosen, device=attributions.device)
        if isinstance(result, Estimate):
            attributions[index], found.standard_errors[index] = result.attribution, result.standard_error
            found.sampled.update(chosen)
        else:
            attributions[index] = result
        for number, row in enumerate(chosen):
            found.extra_passes[row] = passes[number]
    return found


def _evidence(
    rows: _Rows, method: Method, chosen: list[int], draw: int, passes: PassCounter, checkpoint: Checkpoint
) -> Evidence:
    """What a method needs to know of its rows."""
    answers, needs, structure = rows.answers, method.needs, rows.split.structure
    numbers = [rows.query_of_row[row] for row in chosen]
    index = torch.tensor(numbers, device=answers.targets.device)

    def pick(of_queries: Tensor) -> Tensor:
        return of_queries if numbers == list(range(len(of_queries))) else of_queries[index]

    def pick_needed(of_queries: Tensor | None, need: Need) -> Tensor | None:
        return pick(of_queries) if of_queries is not None and need in needs else None

    class_weights = None
    if "class_weights" in needs and isinstance(structure, PooledLinearHead):
        class_weights = structure.class_weights(answers.targets[index])
    return Evidence(
        activations=pick(rows.state.activations),
        gradients=pick_needed(answers.gradients, "gradients"),
        hvp=pick_needed(answers.hvp, "hvp"),
        class_weights=class_weights,
        random_weights=_random_weights(rows, chosen, draw) if "random_weights" in needs else None,
        game=_game(rows, chosen, index, passes, checkpoint) if "game" in needs else None,
    )


def _random_weights(rows: _Rows, chosen: list[int], draw: int) -> Float[Tensor, "row channel"]:
    """Uniform in [-1, 1], the same on every device."""
    activations = rows.state.activations
    generators = [torch.Generator().manual_seed(rows.questions[row].seed) for row in chosen]
    draws = [torch.rand(2, activations.shape[1], generator=generator)[draw] for generator in generators]
    return (2 * torch.stack(draws) - 1).to(activations)


def _game(
    rows: _Rows, chosen: list[int], index: Int[Tensor, " row"], passes: PassCounter, checkpoint: Checkpoint
) -> Game:
    game_rows = []
    for row, target in zip(chosen, rows.answers.targets[index].tolist(), strict=True):
        question, view = rows.questions[row], rows.queries[rows.query_of_row[row]].view
        # Views of an image draw apart, so that their errors average out.
        seed = question.seed ^ (view % rows.views.count)
        game_rows.append(GameRow(view, target, question.utility, seed, question.sampling))
    images, states, values = rows.views.images, rows.views.state, rows.answers.values[index]
    return Game(rows.split, images, states, tuple(game_rows), values, passes, checkpoint)


def _available(rows: _Rows, checkpoint: Checkpoint) -> list[float | None]:
    """U(A) - U(0), for the rows whose attribution is in units of U."""
    pools = rows.split.structure.pools
    efficient = [question.method.is_efficient(pools=pools) for question in rows.questions]
    numbers = sorted({query for query, needed in zip(rows.query_of_row, efficient, strict=True) if needed})
    if not numbers:
        return [None] * len(rows.questions)
    index = torch.tensor(numbers, device=rows.answers.targets.device)
    state = rows.state if len(numbers) == len(rows.state) else rows.state.take(index)
    utilities = [rows.queries[number].question.utility for number in numbers]
    logits = _empty_coalition_logits(rows.split, state, checkpoint)
    empty = values_of_rows(logits, rows.answers.targets[index], utilities)
    of_query = dict(zip(numbers, (rows.answers.values[index] - empty).tolist(), strict=True))
    return [of_query[query] if needed else None for query, needed in zip(rows.query_of_row, efficient, strict=True)]


def _empty_coalition_logits(
    split: SplitNetwork, state: SplitState, checkpoint: Checkpoint
) -> Float[Tensor, "query class"]:
    """In chunks, unless they are the same for all rows."""
    at_once = rows_at_once(state.activations) if state.carry else len(state)
    logits = []
    with torch.no_grad():
        for chunk in chunks(range(len(state)), at_once):
            checkpoint()
            logits.append(split.empty_coalition_logits(state.take(slice(chunk[0], chunk[-1] + 1))))
    return torch.cat(logits)


def _mean_over_views(rows: _Rows, attributed: _Attributed, available: list[float | None]) -> list[LayerMaps]:
    """One answer for each question."""
    answers, views = rows.answers, rows.views
    heatmaps = heatmap(attributed.attributions, (views.images.shape[2], views.images.shape[3]))
    norms: list[float] = [] if answers.hvp is None else answers.hvp.flatten(1).norm(dim=1).tolist()
    targets, values = answers.targets.tolist(), answers.values.tolist()
    passes_of_a_view = 2 if rows.split.whole_head else 1
    maps = []
    for start in range(0, len(rows.questions), views.count):
        part = slice(start, start + views.count)
        query = rows.query_of_row[start]  # of the image itself, which is the first view
        maps.append(
            LayerMaps(
                target_class=targets[query],
                logits=answers.logits[query],
                utility_value=values[query],
                hvp_norm=norms[query] if "hvp" in rows.questions[start].method.needs else None,
                layer=_mean_attribution(views, attributed, available, part),
                heatmap=mean_heatmap(views.mirrored_back(heatmaps[part])),
                forward_passes=sum(attributed.extra_passes[part]) + views.count * passes_of_a_view,
            )
        )
    return maps


def _mean_attribution(
    views: Views, attributed: _Attributed, available: list[float | None], part: slice
) -> LayerAttribution:
    attributions = views.mirrored_back(attributed.attributions[part])
    attribution = attributions[0] if views.count == 1 else attributions.mean(dim=0)
    errors = None
    if part.start in attributed.sampled:
        errors = views.mirrored_back(attributed.standard_errors[part]).norm(dim=0) / views.count
    known = [value for value in available[part] if value is not None]
    return LayerAttribution(attribution, errors, sum(known) / len(known) if known else None)
