"""The utility functions: one number for the logits of a coalition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from service_models.scores import SCORE_FUNCTIONS, SOFTMAX, ScoreFunction

Logits = Float[Tensor, "row class"]
Targets = Int[Tensor, " row"]
Values = Float[Tensor, " row"]
UtilityFunction = Callable[[Logits], Values]
"""Maps logits to utilities whose target classes are known, row by row."""


@dataclass(frozen=True, slots=True)
class Utility:
    """A utility function U(y, c) of logits y and target class c, for one score function.

    Attributes:
        name: its name on the wire.
        alias: another name that requests may use, which fits every score function.
        description: one line for people.
        source: where it comes from.
        function: of logits (row, class), target classes (row,) and the score function.
        scores: the network's score function, which makes p of y.
    """

    name: str
    alias: str
    description: str
    source: str
    function: Callable[[Logits, Targets, ScoreFunction], Values]
    scores: ScoreFunction = SOFTMAX

    def of(self, logits: Logits, targets: Targets) -> Values:
        """Maps logits (row, class) and target classes (row,) to values (row,)."""
        return self.function(logits, targets, self.scores)


def _at(scores: Logits, targets: Targets) -> Values:
    return scores.gather(1, targets[:, None]).squeeze(1)


def logit(logits: Logits, targets: Targets, _scores: ScoreFunction) -> Values:
    """U = y_c."""
    return _at(logits, targets)


def probability(logits: Logits, targets: Targets, scores: ScoreFunction) -> Values:
    """U = p_c."""
    return log_probability(logits, targets, scores).exp()


def log_probability(logits: Logits, targets: Targets, scores: ScoreFunction) -> Values:
    """U = ln p_c."""
    return _at(scores.log_probabilities(logits), targets)


def rest(logits: Logits, targets: Targets, scores: ScoreFunction) -> Values:
    """U = y_c + ln p_c, the Residual Softmax Target-class utility (Eq. 16); with sigmoids p_c is that of y_c alone."""
    return _at(logits, targets) + log_probability(logits, targets, scores)


_PAPER = "Cai 2025, arXiv 2501.06261"

UTILITIES: dict[str, Utility] = {
    utility.name: utility
    for utility in (
        Utility(
            "rest",
            "rest",
            "Residual softmax target class: the logit plus the log-probability of the target class.",
            f"{_PAPER}, Eq. 16",
            rest,
        ),
        Utility("pre-softmax", "logit", "The logit of the target class.", f"{_PAPER}, Sec. 3", logit),
        Utility(
            "post-softmax", "probability", "The probability of the target class.", f"{_PAPER}, Sec. 3", probability
        ),
        Utility(
            "log-softmax",
            "log-probability",
            "The log-probability of the target class.",
            f"{_PAPER}, Sec. 3",
            log_probability,
        ),
    )
}
"""The utilities of networks with softmax."""

_BY_SCORES = {
    name: {each.name: replace(each, scores=scores) for each in UTILITIES.values()}
    for name, scores in SCORE_FUNCTIONS.items()
}


CANONICAL = {alias: utility.name for utility in UTILITIES.values() for alias in (utility.name, utility.alias)}
"""Every name that requests may use, and the name on the wire."""


def utilities_of(scores: ScoreFunction) -> dict[str, Utility]:
    """The utilities of networks with a score function, by their names."""
    return _BY_SCORES[scores.name]


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
