"""What requests need of a network, wherever it runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from app.cam.questions import Explanation, Question
from app.cam.views import Smooth
from app.runtime.jobs import Done
from service_models import Network

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
# Told, on any thread, when the device begins, and how many seconds it is estimated to need, where that is known.
Begun = Callable[[float | None], None]


def nobody_asks(_estimate_s: float | None) -> None:
    """Is told, and does nothing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network made of one picture.

    Attributes:
        image: the normalised input, (1, 3, height, width).
        logits: (class,), float64 on the CPU.
        explanations: one a question.
    """

    image: Float[Tensor, "1 3 height width"]
    logits: Float[Tensor, " class"]
    explanations: tuple[Explanation, ...] = ()


class Backend(ABC):
    """A network that answers.

    Attributes:
        network: what it is; without its model where it runs elsewhere.
        module_paths: what a caller may name as a layer.
    """

    network: Network
    module_paths: frozenset[str]

    @property
    def default_layer(self) -> str:
        """`pre_gap`; for a network that pools by class token, the first layer it names."""
        layers = self.network.layers
        return "pre_gap" if "pre_gap" in layers or not layers else next(iter(layers))

    @abstractmethod
    async def classify(self, pixels: Pixels) -> Done[Seen]:
        """Runs the network without explaining it; pictures that come while the device is busy share a batch.

        Args:
            pixels: HWC, the network's view of a picture.
        """

    @abstractmethod
    async def explain(
        self,
        pixels: Pixels,
        paths: tuple[str, ...],
        questions: Sequence[Question],
        smooth: Smooth,
        limit_s: float,
        begun: Begun = nobody_asks,
    ) -> Done[Seen]:
        """Runs the network and explains it at one layer, or at several together.

        Args:
            pixels: HWC, the network's view of a picture.
            paths: module paths of the target layers.
            questions: about image 0.
            smooth: over which views attributions are averaged.
            limit_s: what is estimated to take longer is refused.
            begun: called when the device begins; again where the batch fails and its half is begun.

        Raises:
            CamError: a layer, a method or a target cannot be used.
            InvalidParameter: it would take too long.
        """

    @abstractmethod
    def refuse_beyond(
        self, limit_s: float, paths: Sequence[str], questions: Sequence[Question], smooth: Smooth
    ) -> None:
        """Refuses what is known by now to take longer than a request may; may block where there are several images.

        Args:
            limit_s: how long a request may take.
            paths: module paths of the layers.
            questions: what is asked of them.
            smooth: the views.

        Raises:
            InvalidParameter: with the estimate.
        """

    @abstractmethod
    async def why_not_ready(self, longest_s: float) -> str | None:
        """Says what is wrong with its device; None where it works.

        Args:
            longest_s: how long a job may take.
        """
