"""Puts a split network's trunk on a faster engine, and keeps it there only if the explanations stay the same."""

import logging
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from app.cam.engine import explain, usable_methods
from app.cam.questions import Question
from app.cam.split import GraphSplit
from app.cam.trunks import Engine, Precision, build_trunk
from app.cam.utilities import UTILITIES

_LOG = logging.getLogger(__name__)

TOLERANCE = 1e-3
# XGradCAM is left out: it is ill-conditioned, and equal formulas differ in it by more.
_METHODS = ("gradcam", "hirescam", "shapleycam", "shapleycam-h")


class TrunkDisagrees(Exception):
    """A compiled trunk does not give the explanations of the eager one."""


def accelerate(
    split: GraphSplit,
    engines: Sequence[Engine],
    images: Float[Tensor, "three colour height width"],
    precision: Precision,
) -> Engine:
    """Puts the trunk on the first engine that can run it and gives the explanations of eager float32.

    Args:
        split: its trunk is eager; it is exchanged.
        engines: in order of preference; where none will do, the trunk stays eager.
        images: three or more, to check it with.
        precision: for less than float32 the deviation is logged, not limited.

    Returns:
        The engine that the trunk now runs on.
    """
    eager = split.run_trunk
    expected = _attributions(split, images)
    for engine in engines:
        if engine == "eager" and precision == "float32":
            break
        try:
            split.run_trunk = build_trunk(split.graph, engine, images[:2], precision)
            deviation = _deviation(_attributions(split, images), expected)
            if precision == "float32" and not deviation <= TOLERANCE:
                raise TrunkDisagrees(f"attributions deviate by {deviation:.1g} of their largest entry")
        except Exception as error:  # compilers raise anything, and the eager trunk always works
            split.run_trunk = eager
            _LOG.warning("the trunk to '%s' is not run by %s: %s", split.layer, engine, _first_line(error))
        else:
            _LOG.info("the trunk to '%s' is run by %s; attributions deviate by %.1g", split.layer, engine, deviation)
            return engine
    return "eager"


def _attributions(split: GraphSplit, images: Tensor) -> Float[Tensor, "row position"]:
    """Attributions of a batch and of its last image alone."""
    rows = []
    methods = usable_methods(split, _METHODS)
    for batch in (images, images[-1:]):
        questions = [Question(i, m, UTILITIES["rest"], target=0) for i in range(len(batch)) for m in methods]
        explained = explain(split, batch, questions, metrics=False)
        rows += [explanation.attribution.flatten() for explanation in explained.explanations]
    return torch.stack(rows)


def _deviation(found: Tensor, expected: Tensor) -> float:
    """The largest difference in a row, relative to the row's own largest entry; NaN where anything is not finite."""
    scale = expected.abs().amax(dim=1).clamp_min(1e-12)
    return float(((found - expected).abs().amax(dim=1) / scale).max())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:300]
