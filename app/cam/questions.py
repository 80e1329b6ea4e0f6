"""The questions to the engine, and its answers."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from app.cam.fidelity import Fidelity
from app.cam.methods import Method
from app.cam.utilities import Utility
from app.cam.work import SamplingOptions

Target = int | Literal["predicted", "least-likely"]


@dataclass(frozen=True, slots=True)
class Question:
    """One explanation asked for.

    Attributes:
        image_index: which image of the batch.
        method: the attribution method.
        utility: the utility function.
        target: class index, the most or the least likely class.
        seed: of the random draws for this image; see `image_seed`.
        sampling: options of the methods that sample or integrate.
        metrics: whether its quality figures are wanted.
        reference: whether the attribution is to be held against sampled Shapley values.
        is_reference: whether it only serves to hold others against; nothing else is made of its answer.
    """

    image_index: int
    method: Method
    utility: Utility
    target: Target = "predicted"
    seed: int = 0
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    metrics: bool = True
    reference: bool = False
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class LayerAttribution:
    """The attribution at one layer; tensors stay on the network's device.

    Attributes:
        attribution: signed, before the outer ReLU.
        standard_error: of each entry where it was sampled, NaN where unknown; else None.
        available: U(A) - U(0), where the attribution is in units of U; else None.
    """

    attribution: Float[Tensor, "grid_height grid_width"]
    standard_error: Float[Tensor, "grid_height grid_width"] | None = None
    available: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to a question; tensors stay on the network's device.

    Attributes:
        question: what was asked.
        target_class: index of the explained class.
        utility_value: U(A).
        hvp_norm: L2 norm of the Hessian-vector product over all layers; None where the method does not use it.
        layers: the attribution at each layer.
        heatmap: in [0, 1], at the network's input size.
        metrics: of this explanation (each a single row); None where not asked for.
        fidelity: how near the attribution is to the Shapley values; None where not asked for.
        forward_passes: how many passes through the network it took.
        warnings: what a reader must know, in words.
    """

    question: Question
    target_class: int
    utility_value: float
    hvp_norm: float | None
    layers: tuple[LayerAttribution, ...]
    heatmap: Float[Tensor, "height width"]
    metrics: dict[str, float] | None
    fidelity: Fidelity | None
    forward_passes: int
    warnings: tuple[str, ...]

    @property
    def attribution(self) -> Float[Tensor, "grid_height grid_width"]:
        """The attribution at the first layer, for the usual case of one."""
        return self.layers[0].attribution


@dataclass(frozen=True, slots=True)
class ExplainedBatch:
    """Logits of each image, float32 or as the network has them, and one explanation a question, in order."""

    logits: Float[Tensor, "batch class"]
    explanations: tuple[Explanation, ...]


def image_seed(seed: int, digest: bytes) -> int:
    """Combines a caller's seed with an image's digest, so that a batch draws what its images draw alone."""
    return int.from_bytes(hashlib.sha256(seed.to_bytes(8, "big") + digest).digest()[:8], "big") >> 1
