"""The gradient methods, each a small pure function; a new one is a function in this file."""

import torch
from torch.nn.functional import relu

from app.cam.methods.registry import Attribution, ChannelWeights, Evidence, Maps, method


def _mean(maps: Maps) -> ChannelWeights:
    return maps.mean(dim=(2, 3))


def weigh(weights: ChannelWeights, activations: Maps) -> Attribution:
    """Sum over channels of w_i A_i."""
    return torch.einsum("rc,rchw->rhw", weights, activations)


CAI = "Cai 2025, arXiv 2501.06261"


@method(
    "shapleycam",
    "ShapleyCAM: channel means of the gradient less half the Hessian-vector product weigh the activations.",
    f"{CAI}, Alg. 1",
    needs=("gradients", "hvp"),
    efficient="pools",
)
def shapleycam(evidence: Evidence) -> Attribution:
    """Sum over channels of m(W_i) A_i, W = G - 1/2 H A (Alg. 1)."""
    return weigh(_mean(evidence.shapley_weights), evidence.activations)


@method(
    "shapleycam-h",
    "ShapleyCAM, element by element: the exact Shapley values of the second-order game.",
    f"{CAI}, Alg. 1",
    needs=("gradients", "hvp"),
    efficient="always",
)
def shapleycam_h(evidence: Evidence) -> Attribution:
    """Sum over channels of W_i * A_i (Alg. 1)."""
    return (evidence.shapley_weights * evidence.activations).sum(dim=1)


@method(
    "shapleycam-e",
    "ShapleyCAM, element by element, positive contributions of each channel only.",
    f"{CAI}, Alg. 1",
    needs=("gradients", "hvp"),
)
def shapleycam_e(evidence: Evidence) -> Attribution:
    """Sum over channels of ReLU(W_i * A_i) (Alg. 1)."""
    return relu(evidence.shapley_weights * evidence.activations).sum(dim=1)


@method(
    "gradcam",
    "Grad-CAM: channel means of the gradient weigh the activations.",
    f"Selvaraju et al. 2017; {CAI}, Eq. 2",
    efficient="pools",
)
def gradcam(evidence: Evidence) -> Attribution:
    """Sum over channels of m(G_i) A_i (Eq. 2)."""
    return weigh(_mean(evidence.required_gradients), evidence.activations)


@method(
    "hirescam",
    "HiResCAM: gradient times activation; the exact Shapley values of the first-order game.",
    f"Draelos and Carin 2020; {CAI}, Eq. 3",
    efficient="always",
)
def hirescam(evidence: Evidence) -> Attribution:
    """Sum over channels of G_i * A_i (Eq. 3)."""
    return (evidence.required_gradients * evidence.activations).sum(dim=1)


@method(
    "gradcam-e",
    "GradCAM element-wise: positive gradient-times-activation products only.",
    f"{CAI}, Eq. 4",
)
def gradcam_e(evidence: Evidence) -> Attribution:
    """Sum over channels of ReLU(G_i * A_i) (Eq. 4)."""
    return relu(evidence.required_gradients * evidence.activations).sum(dim=1)


@method(
    "layercam",
    "LayerCAM: positive gradients weigh the activations element by element.",
    f"Jiang et al. 2021; {CAI}, Eq. 5",
)
def layercam(evidence: Evidence) -> Attribution:
    """Sum over channels of ReLU(G_i) * A_i (Eq. 5)."""
    return (relu(evidence.required_gradients) * evidence.activations).sum(dim=1)


@method(
    "xgradcam",
    "XGrad-CAM: gradients averaged with the normalised activations as weights.",
    f"Fu et al. 2020; {CAI}, Eq. 6",
    efficient="pools",
)
def xgradcam(evidence: Evidence) -> Attribution:
    """Sum over channels of w_i A_i, w_i = sum_j G_ij A_ij / (sum_j A_ij + 1e-7) (Eq. 6).

    Ill-conditioned where a channel's activations sum to nearly zero; computed as the published code does,
    each term divided before the sum.
    """
    gradients, activations = evidence.required_gradients, evidence.activations
    totals = activations.sum(dim=(2, 3), keepdim=True)
    weights = (gradients * activations / (totals + 1e-7)).sum(dim=(2, 3))
    return weigh(weights, activations)


@method(
    "gradcam++",
    "Grad-CAM++: positive gradients, weighted by their share in the second- and third-order terms.",
    "Chattopadhyay et al. 2018, Eq. 19",
)
def gradcam_plus_plus(evidence: Evidence) -> Attribution:
    """Sum over channels of w_i A_i, w_i = sum_j a_ij ReLU(G_ij).

    a = G^2 / (2 G^2 + (sum_j A_ij) G^3 + 1e-6), and 0 where G = 0 (Eq. 19, epsilon of the published tables).
    """
    gradients, activations = evidence.required_gradients, evidence.activations
    squares = gradients**2
    totals = activations.sum(dim=(2, 3), keepdim=True)
    shares = squares / (2 * squares + totals * squares * gradients + 1e-6)
    shares = torch.where(gradients == 0, 0, shares)
    return weigh((shares * relu(gradients)).sum(dim=(2, 3)), activations)


@method(
    "cam",
    "CAM: the classifier's row of the target class weighs the activations; pre-softmax only.",
    f"Zhou et al. 2016; {CAI}, Eq. 1",
    needs=("class_weights",),
)
def cam(evidence: Evidence) -> Attribution:
    """Sum over channels of w^c_i A_i (Eq. 1)."""
    assert evidence.class_weights is not None
    return weigh(evidence.class_weights, evidence.activations)


@method(
    "randomcam",
    "RandomCAM: random channel weights; the baseline that any explanation must beat.",
    f"{CAI}, Sec. 5",
    needs=("random_weights",),
    parameters=("seed",),
)
def randomcam(evidence: Evidence) -> Attribution:
    """Sum over channels of r_i A_i, r_i uniform in [-1, 1]."""
    assert evidence.random_weights is not None
    return weigh(evidence.random_weights, evidence.activations)
