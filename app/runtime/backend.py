"""What requests need of a network, wherever it runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from jaxtyping import Float
from torch import Tensor

from app.cam.questions import Explanation, Question, image_seed
from app.cam.views import Smooth
from app.imaging.picture import Pixels as Pixels
from app.runtime.jobs import JobResult
from service_models import LabelIndex, Network

# Called, on any thread, when the device starts, with the seconds that it is estimated to need, where that is known.
OnStart = Callable[[float | None], None]


def ignore_start(_estimate_s: float | None) -> None:
    """Does nothing."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """How long a request takes on an idle device.

    Attributes:
        seconds: the estimate; a guess where a layer was never used.
        certain_s: the part of it that is certain.
        is_measured: whether all layers were used before, so that their costs are known.
    """

    seconds: float
    certain_s: float
    is_measured: bool


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """What a network is asked to explain.

    Attributes:
        paths: module paths of the target layers; several are explained together.
        questions: one for each explanation; all about image 0 where one image is explained.
        smooth: over which views attributions are averaged.
        limit_s: what is estimated to take longer is refused.
        estimate: its cost, once it was admitted where that is known; see `Backend.admit`.
    """

    paths: tuple[str, ...]
    questions: tuple[Question, ...]
    smooth: Smooth = "none"
    limit_s: float = float("inf")
    estimate: CostEstimate | None = None

    def seeded_for(self, digest: bytes) -> Self:
        """The same with the seeds of one image, by the SHA-256 of its file; see `image_seed`."""
        return replace(
            self, questions=tuple(replace(each, seed=image_seed(each.seed, digest)) for each in self.questions)
        )


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """What a network makes of one image.

    Attributes:
        image: the normalised input, (1, colour, height, width), on the network's device.
        logits: (class,), float64 on the CPU.
        explanations: one for each question.
    """

    image: Float[Tensor, "1 colour height width"]
    logits: Float[Tensor, " class"]
    explanations: tuple[Explanation, ...] = ()


class Backend(ABC):
    """A network that answers requests.

    Attributes:
        network: what it is; without its model where it runs elsewhere.
        module_paths: what a caller may name as a layer.
        labels: finds classes by their names.
    """

    network: Network
    module_paths: frozenset[str]
    labels: LabelIndex

    @property
    def default_layer(self) -> str:
        """`pre_gap`; for a network that pools by class token, the first layer it names."""
        layers = self.network.layers
        return "pre_gap" if "pre_gap" in layers or not layers else next(iter(layers))

    @abstractmethod
    def admit(self, request: ExplainRequest) -> ExplainRequest:
        """Estimates what a request costs, and refuses it where that is over its limit.

        May block where the request is about several images.

        Returns:
            The request with its estimate, where that is known before the network is asked.

        Raises:
            InvalidParameter: with the estimate.
        """

    @abstractmethod
    async def classify(self, pixels: Pixels) -> JobResult[NetworkOutput]:
        """Runs the network without explaining it; images that come while the device is busy share a batch.

        Args:
            pixels: HWC, the network's view of a picture.
        """

    @abstractmethod
    async def explain(
        self, pixels: Pixels, request: ExplainRequest, on_start: OnStart = ignore_start
    ) -> JobResult[NetworkOutput]:
        """Runs the network and explains what it says of one image.

        Args:
            pixels: HWC, the network's view of a picture.
            request: what is to be explained; it is admitted first where it has no estimate.
            on_start: called when the device starts, and again when the estimate changes or a batch is halved.

        Raises:
            CamError: a layer, a method or a target cannot be used.
            InvalidParameter: it would take too long.
        """

    @abstractmethod
    async def why_not_ready(self, longest_s: float) -> str | None:
        """Says what is wrong with its device; None where it works.

        Args:
            longest_s: how long a job may take.
        """
