"""The options of methods that sample or integrate, and estimates of the work of all methods."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """The options of methods that sample or integrate.

    Attributes:
        permutations: for `shapley-sampling`, at most; even, since they come in antithetic pairs.
        tolerance: for `shapley-sampling`: it stops when no player's standard error is larger, in units of the
            utility; None never stops early.
        nodes: for `aumann-shapley`, of the Gauss-Legendre quadrature.
    """

    permutations: int = 256
    tolerance: float | None = None
    nodes: int = 8


@dataclass(frozen=True, slots=True)
class WorkEstimate:
    """How much a method does for one image, besides the one pass that everything needs.

    Attributes:
        images: masked images through the whole network; all targets and utilities share them.
        head_rows: rows through the head alone, shared too.
        coalitions: coalitions whose logits are a sum over players, shared too.
        gradient_rows: rows that are differentiated, for each target and utility.
        lift_rows: rows whose DeepLIFT contributions are found, for each target and utility.
        utility_values: logits that the utility is taken of, for each target and utility.
        rounds: in how many parts that is done, for each target and utility.
    """

    images: int = 0
    head_rows: int = 0
    coalitions: int = 0
    gradient_rows: int = 0
    lift_rows: int = 0
    utility_values: int = 0
    rounds: int = 0
