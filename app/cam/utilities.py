"""The utility functions: what the game pays for the logits of a coalition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Logits = Float[Tensor, "row class"]
Targets = Int[Tensor, " row"]
Values = Float[Tensor, " row"]


@dataclass(frozen=True, slots=True)
class Utility:
    """A utility function U(y, c) of logits y and target class c.

    Attributes:
        name: its name on the wire.
        description: one line for people.
        source: where it comes from.
        of: maps logits (row, class) and target classes (row,) to values (row,).
    """

    name: str
    description: str
    source: str
    of: Callable[[Logits, Targets], Values]


def _at(scores: Logits, targets: Targets) -> Values:
    return scores.gather(1, targets[:, None]).squeeze(1)


def pre_softmax(logits: Logits, targets: Targets) -> Values:
    """U = y_c."""
    return _at(logits, targets)


def post_softmax(logits: Logits, targets: Targets) -> Values:
    """U = p_c."""
    return _at(torch.log_softmax(logits, dim=1), targets).exp()


def log_softmax(logits: Logits, targets: Targets) -> Values:
    """U = ln p_c."""
    return _at(torch.log_softmax(logits, dim=1), targets)


def rest(logits: Logits, targets: Targets) -> Values:
    """U = y_c + ln p_c, the Residual Softmax Target-class utility (Eq. 16)."""
    return _at(logits, targets) + _at(torch.log_softmax(logits, dim=1), targets)


_PAPER = "Cai 2025, arXiv 2501.06261"

UTILITIES: dict[str, Utility] = {
    utility.name: utility
    for utility in (
        Utility(
            "rest",
            "Residual softmax target class: the logit plus the log-probability of the target class.",
            f"{_PAPER}, Eq. 16",
            rest,
        ),
        Utility("pre-softmax", "The logit of the target class.", f"{_PAPER}, Sec. 3", pre_softmax),
        Utility("post-softmax", "The probability of the target class.", f"{_PAPER}, Sec. 3", post_softmax),
        Utility("log-softmax", "The log-probability of the target class.", f"{_PAPER}, Sec. 3", log_softmax),
    )
}


def values_of_rows(logits: Logits, targets: Targets, utilities: Sequence[Utility]) -> Values:
    """Evaluates each row's own utility.

    Args:
        logits: (row, class).
        targets: target class of each row.
        utilities: utility of each row.

    Returns:
        U of each row, in natural-log units (for `post-softmax` a probability).
    """
    if len({utility.name for utility in utilities}) == 1:
        return utilities[0].of(logits, targets)
    values = logits.new_zeros(len(utilities))
    for utility in {utility.name: utility for utility in utilities}.values():
        rows = torch.tensor(
            [row for row, other in enumerate(utilities) if other.name == utility.name], device=logits.device
        )
        values = values.index_put((rows,), utility.of(logits[rows], targets[rows]))
    return values
