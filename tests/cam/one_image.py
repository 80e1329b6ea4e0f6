"""What the tests of masking, layers and smoothing ask about one image, and how they compare the answers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Explanation, Question
from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from service_models import Preprocessing
from testing.photographs import photographs

# Not square, so that rows and columns cannot pass for each other.
SIZE = (64, 96)
EMBEDDED = "tf_efficientnet_lite0"


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Asserts equality in the max norm, relative to the largest entry."""
    assert found.shape == expected.shape
    scale = expected.abs().max()
    assert scale > 0
    difference = ((found - expected).abs().max() / scale).item()
    assert difference <= tolerance, f"{difference:.3g} of the largest entry apart, more than {tolerance:g}"


def explained(
    splits: SplitNetwork | Sequence[SplitNetwork], image: Tensor, method: str, utility: str, target: Any, **options: Any
) -> Explanation:
    """Our explanation of one image, (3, height, width)."""
    question = Question(0, METHODS[method], UTILITIES[utility], target)
    return explain(splits, image[None], [question], **{"metrics": False} | options).explanations[0]


def attributions(split: SplitNetwork, image: Tensor, method: str, target: int) -> dict[str, Tensor]:
    """Ours of one image for every utility, which share what the method finds out."""
    questions = [Question(0, METHODS[method], utility, target) for utility in UTILITIES.values()]
    found = explain(split, image[None], questions, metrics=False).explanations
    return {one.question.utility.name: one.attribution for one in found}


def photograph(name: str, preprocessing: Preprocessing) -> Tensor:
    return photographs(preprocessing, (f"{name}.png",))[0].double()


def predicted(model: nn.Module, image: Tensor) -> int:
    with torch.no_grad():
        return int(model(image[None]).argmax())


class Case(NamedTuple):
    """A layer of a small network, and what is explained there."""

    model: nn.Module
    layer: str
    image: Tensor
    target: int
    channels_last: bool

    def split(self) -> SplitNetwork:
        return split_network(self.model, self.layer, SIZE)
