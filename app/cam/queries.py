"""Runs the head once for each distinct (view, utility, target) that is asked about."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.cam.chunks import Checkpoint, chunks, rows_at_once
from app.cam.errors import TargetError
from app.cam.questions import Question, Target
from app.cam.split import SplitNetwork
from app.cam.state import SplitState
from app.cam.utilities import Logits, Values, values_of_rows


@dataclass(frozen=True, slots=True)
class HeadQuery:
    """A distinct (view, utility, target): all methods that ask about it share its derivatives."""

    view: int
    question: Question


@dataclass(frozen=True, slots=True)
class HeadAnswers:
    """What the head answers to each query; derivatives are None where no method needs them."""

    logits: Float[Tensor, "query class"]
    values: Float[Tensor, " query"]
    targets: Int[Tensor, " query"]
    gradients: Float[Tensor, "query channel height width"] | None
    hvp: Float[Tensor, "query channel height width"] | None


def distinct_queries(questions: Sequence[Question], views: int) -> tuple[list[HeadQuery], list[int]]:
    """The distinct queries, and which of them each row is about."""
    numbers: dict[tuple[int, str, Target], int] = {}
    queries: list[HeadQuery] = []
    query_of_row: list[int] = []
    for question in questions:
        for view in range(question.image_index * views, (question.image_index + 1) * views):
            key = (view, question.utility.name, question.target)
            if key not in numbers:
                numbers[key] = len(queries)
                queries.append(HeadQuery(view, question))
            query_of_row.append(numbers[key])
    return queries, query_of_row


def states_of(state: SplitState, queries: list[HeadQuery]) -> SplitState:
    """One row a query; the usual case, one query about each view in order, copies nothing."""
    views = [query.view for query in queries]
    if views == list(range(len(state))):
        return state
    return state.take(torch.tensor(views, device=state.activations.device))


def answer_queries(
    split: SplitNetwork, state: SplitState, queries: list[HeadQuery], needs: set[str], checkpoint: Checkpoint
) -> HeadAnswers:
    """Runs the head, and differentiates it where that is needed, in chunks of queries."""
    if needs & {"gradients", "hvp"}:
        at_once = split.rows_differentiated_at_once(state.activations)
    else:
        at_once = rows_at_once(state.activations)
    parts = []
    for chunk in chunks(range(len(queries)), at_once):
        checkpoint()
        some = slice(chunk[0], chunk[-1] + 1)
        parts.append(_answer_some(split, state.take(some), queries[some], needs))
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[HeadAnswers]) -> HeadAnswers:
    gradients = [part.gradients for part in parts if part.gradients is not None]
    hvp = [part.hvp for part in parts if part.hvp is not None]
    return HeadAnswers(
        torch.cat([part.logits for part in parts]),
        torch.cat([part.values for part in parts]),
        torch.cat([part.targets for part in parts]),
        torch.cat(gradients) if gradients else None,
        torch.cat(hvp) if hvp else None,
    )


def _answer_some(split: SplitNetwork, state: SplitState, queries: list[HeadQuery], needs: set[str]) -> HeadAnswers:
    targets: list[Int[Tensor, " query"]] = []
    utilities = [query.question.utility for query in queries]

    def utility(logits: Logits) -> Values:
        # "predicted" is known only here, where the one pass through the head has its logits.
        targets.append(target_classes(logits, [query.question.target for query in queries]))
        return values_of_rows(logits, targets[0], utilities)

    if not needs & {"gradients", "hvp"}:
        with torch.no_grad():
            logits = split.head(state)
            return HeadAnswers(logits, utility(logits), targets[0], None, None)
    found = split.differentiate(state, utility, second_order="hvp" in needs)
    return HeadAnswers(found.logits, found.values, targets[0], found.gradients, found.hvp)


def target_classes(logits: Float[Tensor, "query class"], targets: Sequence[Target]) -> Int[Tensor, " query"]:
    """The class that each target means, given the logits of its image.

    Raises:
        TargetError: there is no such class.
    """
    most, least = logits.argmax(dim=1), logits.argmin(dim=1)
    classes = logits.shape[1]
    found = []
    for query, target in enumerate(targets):
        if target == "predicted":
            found.append(most[query])
        elif target == "least-likely":
            found.append(least[query])
        elif 0 <= target < classes:
            found.append(torch.tensor(target, device=logits.device))
        else:
            raise TargetError(f"class {target} does not exist: the network has {classes}, from 0")
    return torch.stack(found)
