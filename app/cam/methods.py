"""The attribution methods, each a small pure function of the game; a new one is a function in this file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

Maps = Float[Tensor, "row channel height width"]
ChannelWeights = Float[Tensor, "row channel"]
Attribution = Float[Tensor, "row height width"]

Need = Literal["gradients", "hvp", "classifier", "random"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a method may look at, for each row.

    Attributes:
        activations: A, the output of the target layer.
        gradients: G = dU/dA.
        hvp: H A, for methods that need it.
        classifier: row w^c of the linear layer that follows global average pooling, for `cam`.
        random: weights uniform in [-1, 1], for `randomcam`.
    """

    activations: Maps
    gradients: Maps
    hvp: Maps | None = None
    classifier: ChannelWeights | None = None
    random: ChannelWeights | None = None

    @property
    def shapley_weights(self) -> Maps:
        """W = G - 1/2 H A (Alg. 1)."""
        assert self.hvp is not None
        return self.gradients - 0.5 * self.hvp


@dataclass(frozen=True, slots=True)
class Method:
    """An attribution method.

    Attributes:
        name: its name on the wire.
        description: one line for people.
        source: paper and equation.
        attribute: maps evidence to the signed attribution, before the outer ReLU.
        needs: what of the evidence it reads besides the activations.
        efficient: where the attribution is in units of U, so that its sum estimates U(A) - U(0): "always",
            only where the head "pools" globally, or "never".
        parameters: request fields that it takes besides the common ones.
    """

    name: str
    description: str
    source: str
    attribute: Callable[[Evidence], Attribution]
    needs: frozenset[Need]
    efficient: Literal["always", "pools", "never"]
    parameters: tuple[str, ...]


METHODS: dict[str, Method] = {}


def _method(
    name: str,
    description: str,
    source: str,
    *,
    needs: tuple[Need, ...] = ("gradients",),
    efficient: Literal["always", "pools", "never"] = "never",
    parameters: tuple[str, ...] = (),
) -> Callable[[Callable[[Evidence], Attribution]], Callable[[Evidence], Attribution]]:
    def register(attribute: Callable[[Evidence], Attribution]) -> Callable[[Evidence], Attribution]:
        METHODS[name] = Method(name, description, source, attribute, frozenset(needs), efficient, parameters)
        return attribute

    return register


def _mean(maps: Maps) -> ChannelWeights:
    return maps.mean(dim=(2, 3))


def _weigh(weights: ChannelWeights, activations: Maps) -> Attribution:
    return torch.einsum("rc,rchw->rhw", weights, activations)


_CAI = "Cai 2025, arXiv 2501.06261"


@_method(
    "shapleycam",
    "ShapleyCAM: channel means of the gradient less half the Hessian-vector product weigh the activations.",
    f"{_CAI}, Alg. 1",
    needs=("gradients", "hvp"),
    efficient="pools",
)
def shapleycam(evidence: Evidence) -> Attribution:
    """Sum over channels of m(W_i) A_i, W = G - 1/2 H A (Alg. 1)."""
    return _weigh(_mean(evidence.shapley_weights), evidence.activations)


@_method(
    "shapleycam-h",
    "ShapleyCAM, element by element: the exact Shapley values of the second-order game.",
    f"{_CAI}, Alg. 1",
    needs=("gradients", "hvp"),
    efficient="always",
)
def shapleycam_h(evidence: Evidence) -> Attribution:
    """Sum over channels of W_i * A_i (Alg. 1)."""
    return (evidence.shapley_weights * evidence.activations).sum(dim=1)


@_method(
    "shapleycam-e",
    "ShapleyCAM, element by element, positive contributions of each channel only.",
    f"{_CAI}, Alg. 1",
    needs=("gradients", "hvp"),
)
def shapleycam_e(evidence: Evidence) -> Attribution:
    """Sum over channels of ReLU(W_i * A_i) (Alg. 1)."""
    return relu(evidence.shapley_weights * evidence.activations).sum(dim=1)


@_method(
    "gradcam",
    "Grad-CAM: channel means of the gradient weigh the activations.",
    f"Selvaraju et al. 2017; {_CAI}, Eq. 2",
    efficient="pools",
)
def gradcam(evidence: Evidence) -> Attribution:
    """Sum over channels of m(G_i) A_i (Eq. 2)."""
    return _weigh(_mean(evidence.gradients), evidence.activations)


@_method(
    "hirescam",
    "HiResCAM: gradient times activation; the exact Shapley values of the first-order game.",
    f"Draelos and Carin 2020; {_CAI}, Eq. 3",
    efficient="always",
)
def hirescam(evidence: Evidence) -> Attribution:
    """Sum over channels of G_i * A_i (Eq. 3)."""
    return (evidence.gradients * evidence.activations).sum(dim=1)


@_method(
    "gradcam-e",
    "GradCAM element-wise: positive gradient-times-activation products only.",
    f"{_CAI}, Eq. 4",
)
def gradcam_e(evidence: Evidence) -> Attribution:
    """Sum over channels of ReLU(G_i * A_i) (Eq. 4)."""
    return relu(evidence.gradients * evidence.activations).sum(dim=1)


@_method(
    "layercam",
    "LayerCAM: positive gradients weigh the activations element by element.",
    f"Jiang et al. 2021; {_CAI}, Eq. 5",
)
def layercam(evidence: Evidence) -> Attribution:
    """Sum over channels of ReLU(G_i) * A_i (Eq. 5)."""
    return (relu(evidence.gradients) * evidence.activations).sum(dim=1)


@_method(
    "xgradcam",
    "XGrad-CAM: gradients averaged with the normalised activations as weights.",
    f"Fu et al. 2020; {_CAI}, Eq. 6",
    efficient="pools",
)
def xgradcam(evidence: Evidence) -> Attribution:
    """Sum over channels of w_i A_i, w_i = sum_j G_ij A_ij / (sum_j A_ij + 1e-7) (Eq. 6).

    Ill-conditioned where a channel's activations sum to nearly zero; computed as the published code does,
    each term divided before the sum.
    """
    gradients, activations = evidence.gradients, evidence.activations
    totals = activations.sum(dim=(2, 3), keepdim=True)
    weights = (gradients * activations / (totals + 1e-7)).sum(dim=(2, 3))
    return _weigh(weights, activations)


@_method(
    "gradcam++",
    "Grad-CAM++: positive gradients, weighted by their share in the second- and third-order terms.",
    "Chattopadhyay et al. 2018, Eq. 19",
)
def gradcam_plus_plus(evidence: Evidence) -> Attribution:
    """Sum over channels of w_i A_i, w_i = sum_j a_ij ReLU(G_ij).

    a = G^2 / (2 G^2 + (sum_j A_ij) G^3 + 1e-6), and 0 where G = 0 (Eq. 19, epsilon of the published tables).
    """
    gradients, activations = evidence.gradients, evidence.activations
    squares = gradients**2
    totals = activations.sum(dim=(2, 3), keepdim=True)
    shares = squares / (2 * squares + totals * squares * gradients + 1e-6)
    shares = torch.where(gradients == 0, 0, shares)
    return _weigh((shares * relu(gradients)).sum(dim=(2, 3)), activations)


@_method(
    "cam",
    "CAM: the classifier's row of the target class weighs the activations; pre-softmax only.",
    f"Zhou et al. 2016; {_CAI}, Eq. 1",
    needs=("classifier",),
)
def cam(evidence: Evidence) -> Attribution:
    """Sum over channels of w^c_i A_i (Eq. 1)."""
    assert evidence.classifier is not None
    return _weigh(evidence.classifier, evidence.activations)


@_method(
    "randomcam",
    "RandomCAM: random channel weights; the baseline that any explanation must beat.",
    f"{_CAI}, Sec. 5",
    needs=("random",),
    parameters=("seed",),
)
def randomcam(evidence: Evidence) -> Attribution:
    """Sum over channels of r_i A_i, r_i uniform in [-1, 1]."""
    assert evidence.random is not None
    return _weigh(evidence.random, evidence.activations)
