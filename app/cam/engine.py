"""Explains batches of images: one pass for the image, one batch of masked images for all quality figures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.cam.derivatives import Derivatives, differentiate
from app.cam.errors import MethodError, TargetError
from app.cam.heatmap import heatmap, is_constant
from app.cam.methods import Evidence, Method
from app.cam.metrics import Metrics, compute_metrics
from app.cam.questions import Explained, Explanation, Question
from app.cam.split import SplitNetwork, State
from app.cam.utilities import Logits, Utility, Values, values_of_rows

Item = TypeVar("Item")

# Rows of activations that the head takes at once, in elements: 64 rows of 2,048 x 7 x 7, 8 of 256 x 56 x 56.
_HEAD_ELEMENTS = 64 * 2048 * 7 * 7
# Explanations whose masked images, two each, pass as one batch. On the CPU small batches are the faster ones: their
# feature maps stay under the size (32 MiB) from which the allocator maps, and the kernel clears, fresh pages.
_MEASURED_AT_ONCE = {"cpu": 4, "cuda": 32}


def explain(
    split: SplitNetwork,
    images: Float[Tensor, "batch 3 height width"],
    questions: Sequence[Question],
    *,
    metrics: bool = True,
) -> Explained:
    """Answers all questions about a batch of images.

    The trunk runs once for each image whatever the number of questions; with metrics a second pass takes the
    explanation and anti-explanation maps of all explanations as one batch, and the heatmaps for coherency come
    out of that pass. Explanations of a batch equal those of its images one by one.

    Args:
        split: network split at the target layer.
        images: normalised, on the network's device.
        questions: at least one for each image.
        metrics: whether the quality figures are wanted.

    Returns:
        Logits and explanations.

    Raises:
        MethodError: a method cannot be used at this layer or with this utility.
        TargetError: a target class does not exist.
    """
    for question in questions:
        check_method(split, question.method, question.utility)
    size = (images.shape[2], images.shape[3])
    state = split.trunk(images)
    explanations: list[Explanation] = []
    logits: dict[int, Tensor] = {}
    for chunk in _chunks(questions, _rows_at_once(state)):
        answers, row_logits = _explain_rows(split, _rows_of(state, chunk), chunk, size)
        for question, row in zip(chunk, row_logits, strict=True):
            logits.setdefault(question.image, row)
        explanations.extend(answers)
    if metrics:
        explanations = [
            measured
            for chunk in _chunks(explanations, _MEASURED_AT_ONCE[images.device.type])
            for measured in _measure(split, images, logits, chunk)
        ]
    return Explained(torch.stack([logits[image] for image in range(len(images))]), tuple(explanations))


def check_method(split: SplitNetwork, method: Method, utility: Utility) -> None:
    """Raises MethodError where the method has no meaning."""
    if "classifier" not in method.needs:
        return
    if split.classifier is None:
        raise MethodError(
            f"'{method.name}' needs a layer that feeds global average pooling and one linear layer; "
            f"'{split.layer}' does not"
        )
    if utility.name != "pre-softmax":
        raise MethodError(f"'{method.name}' explains the utility pre-softmax only")


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _rows_of(state: State, questions: Sequence[Question]) -> State:
    """One row a question; the usual case, one question about each image in order, copies nothing."""
    images = [question.image for question in questions]
    if images == list(range(len(state))):
        return state
    return state.take(torch.tensor(images, device=state.activations.device))


def _rows_at_once(state: State) -> int:
    return max(1, _HEAD_ELEMENTS // max(1, state.activations[0].numel()))


def _explain_rows(
    split: SplitNetwork, rows: State, questions: Sequence[Question], size: tuple[int, int]
) -> tuple[list[Explanation], Float[Tensor, "row class"]]:
    targets: list[Int[Tensor, " row"]] = []
    utilities = [question.utility for question in questions]

    def utility(logits: Logits) -> Values:
        # "predicted" is known only here, where the one pass through the head has its logits.
        targets.append(_target_classes(logits, questions))
        return values_of_rows(logits, targets[0], utilities)

    second_order = any("hvp" in question.method.needs for question in questions)
    derivatives = differentiate(split, rows, utility, second_order=second_order)
    attributions = _attribute(split, rows, derivatives, questions, targets[0], draw=0)
    available = _available(split, rows, derivatives, questions, targets[0])
    heatmaps = heatmap(attributions, size)
    norms = None if derivatives.hvp is None else derivatives.hvp.flatten(1).norm(dim=1).tolist()
    explanations = [
        Explanation(
            question=question,
            target_class=target,
            utility_value=value,
            hvp_norm=norms[row] if norms is not None and "hvp" in question.method.needs else None,
            attribution=attributions[row],
            heatmap=heatmaps[row],
            available=available[row],
            metrics=None,
            forward_passes=1,
            warnings=(),
        )
        for row, (question, target, value) in enumerate(
            zip(questions, targets[0].tolist(), derivatives.values.tolist(), strict=True)
        )
    ]
    return _warn(split, explanations), derivatives.logits


def _target_classes(logits: Tensor, questions: Sequence[Question]) -> Int[Tensor, " row"]:
    most, least = logits.argmax(dim=1), logits.argmin(dim=1)
    classes = logits.shape[1]
    found = []
    for row, question in enumerate(questions):
        if question.target == "predicted":
            found.append(most[row])
        elif question.target == "least-likely":
            found.append(least[row])
        elif 0 <= question.target < classes:
            found.append(torch.tensor(question.target, device=logits.device))
        else:
            raise TargetError(f"class {question.target} does not exist: the network has {classes}, from 0")
    return torch.stack(found)


def _attribute(
    split: SplitNetwork,
    rows: State,
    derivatives: Derivatives,
    questions: Sequence[Question],
    targets: Int[Tensor, " row"],
    *,
    draw: int,
) -> Float[Tensor, "row grid_height grid_width"]:
    """Applies each row's method, all rows of one method at once."""
    attributions = rows.activations.new_empty(rows.activations[:, 0].shape)
    for method in {question.method.name: question.method for question in questions}.values():
        chosen = [row for row, question in enumerate(questions) if question.method.name == method.name]
        index = torch.tensor(chosen, device=targets.device)
        everything = len(chosen) == len(questions)
        activations = rows.activations if everything else rows.activations[index]
        hvp = derivatives.hvp
        evidence = Evidence(
            activations,
            derivatives.gradients if everything else derivatives.gradients[index],
            hvp if hvp is None or everything else hvp[index],
            classifier=split.classifier.weight[targets[index]] if split.classifier is not None else None,
            random=_random_weights([questions[row] for row in chosen], activations, draw)
            if "random" in method.needs
            else None,
        )
        attributions[index] = method.attribute(evidence)
    return attributions


def _random_weights(questions: Sequence[Question], activations: Tensor, draw: int) -> Float[Tensor, "row channel"]:
    """Uniform in [-1, 1]: draw 0 for the image, draw 1 for its explanation map, the same on every device."""
    channels = activations.shape[1]
    rows = [
        torch.rand(2, channels, generator=torch.Generator().manual_seed(question.seed))[draw] for question in questions
    ]
    return (2 * torch.stack(rows) - 1).to(activations)


def _available(
    split: SplitNetwork,
    rows: State,
    derivatives: Derivatives,
    questions: Sequence[Question],
    targets: Int[Tensor, " row"],
) -> list[float | None]:
    """U(A) - U(0), for the rows whose attribution is in units of U."""
    chosen = [
        row
        for row, question in enumerate(questions)
        if question.method.efficient == "always" or (question.method.efficient == "pools" and split.pools)
    ]
    available: list[float | None] = [None] * len(questions)
    if not chosen:
        return available
    index = torch.tensor(chosen, device=targets.device)
    present = rows if len(chosen) == len(questions) else rows.take(index)
    with torch.no_grad():
        logits = split.silent(present)
    nothing = values_of_rows(logits, targets[index], [questions[row].utility for row in chosen])
    for row, difference in zip(chosen, (derivatives.values[index] - nothing).tolist(), strict=True):
        available[row] = difference
    return available


def _warn(split: SplitNetwork, explanations: list[Explanation]) -> list[Explanation]:
    attributions = torch.stack([explanation.attribution for explanation in explanations])
    positive = (attributions > 0).any(dim=2).any(dim=1).tolist()
    constant = is_constant(attributions).tolist()
    finite = attributions.isfinite().all(dim=2).all(dim=1).tolist()
    warned = []
    for row, explanation in enumerate(explanations):
        warnings = []
        if split.calls > 1:
            warnings.append(
                f"the module '{split.layer}' runs {split.calls} times in a forward pass; its last output is explained"
            )
        if not finite[row]:
            warnings.append("the attribution overflowed; entries that are not finite are null")
        elif not positive[row]:
            warnings.append("no position speaks for this class: the heatmap is all zeros")
        elif constant[row]:
            warnings.append("the attribution is the same everywhere: the heatmap is all zeros")
        if explanation.hvp_norm == 0:
            warnings.append(
                "the Hessian-vector product is exactly zero here: the method reduces to its first-order counterpart"
            )
        warned.append(replace(explanation, warnings=tuple(warnings)))
    return warned


def _measure(
    split: SplitNetwork,
    images: Tensor,
    logits: dict[int, Tensor],
    explanations: Sequence[Explanation],
) -> list[Explanation]:
    """Adds the quality figures: explanation and anti-explanation maps go through the network as one batch."""
    count = len(explanations)
    rows = torch.tensor([e.question.image for e in explanations], device=images.device)
    targets = torch.tensor([e.target_class for e in explanations], device=images.device)
    questions = [replace(e.question, target=e.target_class) for e in explanations]
    heatmaps = torch.stack([e.heatmap for e in explanations])
    explained = images[rows] * heatmaps[:, None]
    state = split.trunk(torch.cat((explained, images[rows] * (1 - heatmaps[:, None]))))

    explained_heatmaps, explained_logits = [], []
    for start in range(0, count, _rows_at_once(state)):
        stop = min(start + _rows_at_once(state), count)
        part = state.take(torch.arange(start, stop, device=images.device))
        maps, part_logits = _heatmaps_again(split, part, questions[start:stop], (images.shape[2], images.shape[3]))
        explained_heatmaps.append(maps)
        explained_logits.append(part_logits)
    with torch.no_grad():
        deleted_logits = split.head(state.take(torch.arange(count, 2 * count, device=images.device)))

    score, explained_score, deleted_score = (
        _log_probability(scores, targets)
        for scores in (
            torch.stack([logits[e.question.image] for e in explanations]),
            torch.cat(explained_logits),
            deleted_logits,
        )
    )
    figures = compute_metrics(score, explained_score, deleted_score, heatmaps, torch.cat(explained_heatmaps))
    return _attach(explanations, figures)


def _heatmaps_again(
    split: SplitNetwork, rows: State, questions: Sequence[Question], size: tuple[int, int]
) -> tuple[Float[Tensor, "row height width"], Float[Tensor, "row class"]]:
    """Heatmaps of explanation maps, for the classes already chosen."""
    targets = torch.tensor([question.target for question in questions], device=rows.activations.device)
    utilities = [question.utility for question in questions]
    derivatives = differentiate(
        split,
        rows,
        lambda logits: values_of_rows(logits, targets, utilities),
        second_order=any("hvp" in question.method.needs for question in questions),
    )
    attributions = _attribute(split, rows, derivatives, questions, targets, draw=1)
    return heatmap(attributions, size), derivatives.logits


def _log_probability(logits: Tensor, targets: Tensor) -> Float[Tensor, " row"]:
    return torch.log_softmax(logits.double(), dim=1).gather(1, targets[:, None]).squeeze(1)


def _attach(explanations: Sequence[Explanation], figures: Metrics) -> list[Explanation]:
    names = tuple(Metrics.__slots__)
    table = torch.stack([getattr(figures, name) for name in names]).T.tolist()
    attached = []
    for explanation, row in zip(explanations, table, strict=True):
        values = dict(zip(names, row, strict=True))
        undefined = sorted(name for name, value in values.items() if value != value)
        warnings = explanation.warnings
        if undefined:
            warnings += (f"undefined, since the class has probability zero: {', '.join(undefined)}",)
        passes = explanation.forward_passes + 2
        attached.append(replace(explanation, metrics=values, warnings=warnings, forward_passes=passes))
    return attached
