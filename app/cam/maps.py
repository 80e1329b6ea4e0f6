"""Attributions and heatmaps of a batch at one layer, before their quality is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.cam.chunks import Pause, chunks, rows_at_once
from app.cam.derivatives import differentiate
from app.cam.errors import TargetError
from app.cam.game import Game, Row
from app.cam.heatmap import heatmap, mean_heatmap
from app.cam.methods import Estimate, Evidence
from app.cam.methods.registry import Need
from app.cam.questions import LayerAttribution, Question, Target
from app.cam.split import SplitNetwork, State
from app.cam.utilities import Logits, Values, values_of_rows
from app.cam.views import Views


@dataclass(frozen=True, slots=True)
class Map:
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
    split: SplitNetwork, views: Views, questions: Sequence[Question], pause: Pause, *, draw: int = 0
) -> list[Map]:
    """Answers all questions at one layer.

    Args:
        split: network split there.
        views: of all images that the questions are about.
        questions: in any order; with several views their targets must be class indices.
        pause: called between chunks; it may raise to abandon the work.
        draw: which random draw a method that draws uses; 0 for images, 1 for their explanation maps.

    Raises:
        MethodError: a method cannot be used here.
        TargetError: a target class does not exist.
    """
    size = (views.images.shape[2], views.images.shape[3])
    maps = []
    for chunk in chunks(questions, max(1, rows_at_once(views.state.activations) // views.count)):
        pause()
        maps.extend(_find_some(split, views, chunk, size, pause, draw))
    return maps


@dataclass(frozen=True, slots=True)
class _Line:
    """A distinct (view, utility, target): all methods that ask about it share its derivatives."""

    view: int
    question: Question


@dataclass(frozen=True, slots=True)
class _Found:
    """What the head says of each line; derivatives are None where no method needs them."""

    logits: Float[Tensor, "line class"]
    values: Float[Tensor, " line"]
    targets: Int[Tensor, " line"]
    gradients: Float[Tensor, "line channel height width"] | None
    hvp: Float[Tensor, "line channel height width"] | None


@dataclass(frozen=True, slots=True)
class _Attributed:
    """Attributions of rows, a row being a view of a question; standard errors of those that were sampled."""

    attributions: Float[Tensor, "row grid_height grid_width"]
    standard_errors: Float[Tensor, "row grid_height grid_width"]
    sampled: set[int]
    extra_passes: list[int]


def _find_some(
    split: SplitNetwork,
    views: Views,
    questions: Sequence[Question],
    size: tuple[int, int],
    pause: Pause,
    draw: int,
) -> list[Map]:
    count = views.count
    lines, line_of_row = _lines_of(questions, count)
    state = _rows_of(views.state, [line.view for line in lines])
    found = _evaluate(split, state, lines, {need for question in questions for need in question.method.needs})
    rows = _Rows(split, views, [question for question in questions for _ in range(count)], line_of_row, lines, draw)
    attributed = rows.attribute(state, found, pause)
    available = rows.available(state, found)
    heatmaps = heatmap(attributed.attributions, size)

    norms = None if found.hvp is None else found.hvp.flatten(1).norm(dim=1).tolist()
    targets, values = found.targets.tolist(), found.values.tolist()
    maps = []
    for number, question in enumerate(questions):
        part = slice(number * count, (number + 1) * count)
        line = line_of_row[number * count]
        maps.append(
            Map(
                target_class=targets[line],
                logits=found.logits[line],
                utility_value=values[line],
                hvp_norm=norms[line] if norms is not None and "hvp" in question.method.needs else None,
                layer=_mean_layer(views, attributed, available[part], part),
                heatmap=mean_heatmap(views.mirrored_back(heatmaps[part])),
                forward_passes=sum(attributed.extra_passes[part]) + count * (2 if split.whole_head else 1),
            )
        )
    return maps


def _lines_of(questions: Sequence[Question], views: int) -> tuple[list[_Line], list[int]]:
    """The distinct lines, and which of them each row is about."""
    numbers: dict[tuple[int, str, Target], int] = {}
    lines: list[_Line] = []
    line_of_row: list[int] = []
    for question in questions:
        for view in range(question.image * views, (question.image + 1) * views):
            key = (view, question.utility.name, question.target)
            if key not in numbers:
                numbers[key] = len(lines)
                lines.append(_Line(view, question))
            line_of_row.append(numbers[key])
    return lines, line_of_row


def _rows_of(state: State, views: list[int]) -> State:
    """One row a line; the usual case, one line about each view in order, copies nothing."""
    if views == list(range(len(state))):
        return state
    return state.take(torch.tensor(views, device=state.activations.device))


def _evaluate(split: SplitNetwork, state: State, lines: list[_Line], needs: set[str]) -> _Found:
    targets: list[Int[Tensor, " line"]] = []
    utilities = [line.question.utility for line in lines]

    def utility(logits: Logits) -> Values:
        # "predicted" is known only here, where the one pass through the head has its logits.
        targets.append(target_classes(logits, [line.question.target for line in lines]))
        return values_of_rows(logits, targets[0], utilities)

    if not needs & {"gradients", "hvp"}:
        with torch.no_grad():
            logits = split.head(state)
            return _Found(logits, utility(logits), targets[0], None, None)
    found = differentiate(split, state, utility, second_order="hvp" in needs)
    return _Found(found.logits, found.values, targets[0], found.gradients, found.hvp)


def target_classes(logits: Float[Tensor, "line class"], targets: Sequence[Target]) -> Int[Tensor, " line"]:
    """The class that each target means, given the logits of its image.

    Raises:
        TargetError: there is no such class.
    """
    most, least = logits.argmax(dim=1), logits.argmin(dim=1)
    classes = logits.shape[1]
    found = []
    for line, target in enumerate(targets):
        if target == "predicted":
            found.append(most[line])
        elif target == "least-likely":
            found.append(least[line])
        elif 0 <= target < classes:
            found.append(torch.tensor(target, device=logits.device))
        else:
            raise TargetError(f"class {target} does not exist: the network has {classes}, from 0")
    return torch.stack(found)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A row for each view of each question."""

    split: SplitNetwork
    views: Views
    questions: list[Question]
    lines_of: list[int]
    lines: list[_Line]
    draw: int

    def attribute(self, state: State, found: _Found, pause: Pause) -> _Attributed:
        """Applies each row's method, all rows of one method at once."""
        shape = (len(self.questions), *state.activations.shape[2:])
        attributions = state.activations.new_empty(shape)
        standard_errors = state.activations.new_zeros(shape)
        sampled: set[int] = set()
        extra_passes = [0] * len(self.questions)
        for method in {question.method.name: question.method for question in self.questions}.values():
            chosen = [row for row, question in enumerate(self.questions) if question.method.name == method.name]
            evidence = self._evidence(state, found, chosen, method.needs, pause)
            result = method.attribute(evidence)
            rows = torch.tensor(chosen, device=attributions.device)
            if isinstance(result, Estimate):
                attributions[rows], standard_errors[rows] = result.attribution, result.standard_error
                sampled.update(chosen)
            else:
                attributions[rows] = result
            if evidence.game is not None:
                for row, passes in zip(chosen, evidence.game.extra_passes, strict=True):
                    extra_passes[row] = passes
        return _Attributed(attributions, standard_errors, sampled, extra_passes)

    def _evidence(
        self, state: State, found: _Found, chosen: list[int], needs: frozenset[Need], pause: Pause
    ) -> Evidence:
        of_line = [self.lines_of[row] for row in chosen]
        index = torch.tensor(of_line, device=found.targets.device)

        def pick(values: Tensor | None, need: Need) -> Tensor | None:
            if values is None or need not in needs:
                return None
            return values if of_line == list(range(len(values))) else values[index]

        activations = state.activations if of_line == list(range(len(state))) else state.activations[index]
        classifier = self.split.classifier
        return Evidence(
            activations,
            pick(found.gradients, "gradients"),
            pick(found.hvp, "hvp"),
            classifier=classifier.weight[found.targets[index]]
            if classifier is not None and "classifier" in needs
            else None,
            random=self._random_weights(chosen, activations) if "random" in needs else None,
            game=self._game(found, chosen, index, pause) if "game" in needs else None,
        )

    def _game(self, found: _Found, chosen: list[int], index: Int[Tensor, " row"], pause: Pause) -> Game:
        targets = found.targets[index].tolist()
        rows = []
        for row, target in zip(chosen, targets, strict=True):
            question, view = self.questions[row], self.lines[self.lines_of[row]].view
            # Views of an image draw apart, so that their errors average out.
            seed = question.seed ^ (view % self.views.count)
            rows.append(Row(view, target, question.utility, seed, question.effort))
        return Game(self.split, self.views.images, self.views.state, tuple(rows), found.values[index], pause)

    def _random_weights(self, chosen: list[int], activations: Tensor) -> Float[Tensor, "row channel"]:
        """Uniform in [-1, 1], the same on every device."""
        channels = activations.shape[1]
        seeds = [self.questions[row].seed for row in chosen]
        draws = [torch.rand(2, channels, generator=torch.Generator().manual_seed(seed))[self.draw] for seed in seeds]
        return (2 * torch.stack(draws) - 1).to(activations)

    def available(self, state: State, found: _Found) -> list[float | None]:
        """U(A) - U(0), for the rows whose attribution is in units of U."""
        pools = self.split.pools
        chosen = [
            row
            for row, question in enumerate(self.questions)
            if question.method.efficient == "always" or (question.method.efficient == "pools" and pools)
        ]
        available: list[float | None] = [None] * len(self.questions)
        if not chosen:
            return available
        lines = sorted({self.lines_of[row] for row in chosen})
        index = torch.tensor(lines, device=found.targets.device)
        with torch.no_grad():
            logits = self.split.silent(state if len(lines) == len(state) else state.take(index))
        utilities = [self.lines[line].question.utility for line in lines]
        nothing = values_of_rows(logits, found.targets[index], utilities)
        differences = dict(zip(lines, (found.values[index] - nothing).tolist(), strict=True))
        for row in chosen:
            available[row] = differences[self.lines_of[row]]
        return available


def _mean_layer(views: Views, attributed: _Attributed, available: list[float | None], part: slice) -> LayerAttribution:
    attributions = views.mirrored_back(attributed.attributions[part])
    known = [value for value in available if value is not None]
    errors = None
    if part.start in attributed.sampled:
        errors = views.mirrored_back(attributed.standard_errors[part]).norm(dim=0) / views.count
    attribution = attributions[0] if views.count == 1 else attributions.mean(dim=0)
    return LayerAttribution(attribution, errors, sum(known) / len(known) if known else None)
