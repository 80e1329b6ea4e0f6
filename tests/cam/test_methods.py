"""The methods against the theory they come from."""

import pytest
import torch
from torch import Tensor, nn

from app.cam.derivatives import Derivatives
from app.cam.heads import PooledLinearHead
from app.cam.methods import METHODS, Evidence
from app.cam.split import SplitNetwork
from app.cam.state import SplitState
from app.cam.utilities import UTILITIES
from tests.cam.games import PoolAndClassify, Quadratic, linear_head, shapley_values, smooth_head, split_tiny

CLASS = 1
METHOD_NAMES = sorted(name for name, method in METHODS.items() if method.needs and method.needs <= {"gradients", "hvp"})


def utility_of(name: str, target: int = CLASS):
    return lambda logits: UTILITIES[name].of(logits, torch.full((len(logits),), target))


def attribution(
    split: SplitNetwork, state: SplitState, method: str, utility: str, target: int = CLASS
) -> tuple[Tensor, Derivatives]:
    found = split.differentiate(state, utility_of(utility, target), second_order=True)
    return METHODS[method].attribute(Evidence(state.activations, found.gradients, found.hvp)), found


def first(state: SplitState) -> SplitState:
    return state.take(torch.tensor([0]))


@pytest.mark.parametrize("seed", range(3))
def test_shapleycam_h_equals_exact_shapley_values_of_a_quadratic_head(seed: int) -> None:
    split, state = split_tiny(Quadratic(9), seed)
    expected, total = shapley_values(split, first(state), utility_of("pre-softmax"))
    found, _ = attribution(split, first(state), "shapleycam-h", "pre-softmax")
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.sum(), total, rtol=1e-10, atol=1e-12)
    # The second-order term matters: the first-order game has other values.
    first_order, _ = attribution(split, first(state), "hirescam", "pre-softmax")
    assert (first_order[0] - expected).abs().max() > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_hirescam_equals_exact_shapley_values_of_a_linear_head(seed: int) -> None:
    split, state = split_tiny(linear_head(), seed)
    expected, total = shapley_values(split, first(state), utility_of("pre-softmax"))
    found, _ = attribution(split, first(state), "hirescam", "pre-softmax")
    torch.testing.assert_close(found[0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.sum(), total, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("utility", UTILITIES)
def test_theorems_1_and_2_before_global_average_pooling(utility: str) -> None:
    split, state = split_tiny(PoolAndClassify())
    hirescam, _ = attribution(split, state, "hirescam", utility)
    for method in ("gradcam", "xgradcam"):
        found, _ = attribution(split, state, method, utility)
        # XGrad-CAM divides by sums that its epsilon shifts: equal to 1e-7, not to rounding.
        torch.testing.assert_close(found, hirescam, rtol=1e-5, atol=1e-7)
    shapley, _ = attribution(split, state, "shapleycam", utility)
    shapley_h, _ = attribution(split, state, "shapleycam-h", utility)
    torch.testing.assert_close(shapley, shapley_h, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_theorem_3_softmax_utilities_are_mixtures_of_the_logits_explanations(method: str) -> None:
    """Before the outer ReLU: E[ln p_c] = E[y_c] - sum_k p_k E[y_k], and E[p_c] = p_c E[ln p_c]."""
    split, state = split_tiny(smooth_head())
    log_softmax, found = attribution(split, state, method, "log-softmax")
    post_softmax, _ = attribution(split, state, method, "post-softmax")
    probabilities = found.logits.softmax(dim=1)
    of_class = [attribution(split, state, method, "pre-softmax", k)[0] for k in range(3)]
    mixture = sum(probabilities[:, k, None, None] * of_class[k] for k in range(3))
    torch.testing.assert_close(log_softmax, of_class[CLASS] - mixture, rtol=1e-10, atol=1e-12)
    scale = probabilities[:, CLASS, None, None]
    torch.testing.assert_close(post_softmax, scale * (of_class[CLASS] - mixture), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "shapleycam", "shapleycam-h"])
def test_equation_17_rest_is_the_sum_of_its_two_explanations(method: str) -> None:
    """Before the outer ReLU: E[ReST] = E[pre-softmax] + E[log-softmax], curvature included."""
    split, state = split_tiny(smooth_head())
    rest, _ = attribution(split, state, method, "rest")
    pre, _ = attribution(split, state, method, "pre-softmax")
    log, _ = attribution(split, state, method, "log-softmax")
    torch.testing.assert_close(rest, pre + log, rtol=1e-10, atol=1e-12)


def test_rest_gradient_is_twice_the_class_less_the_expected_class() -> None:
    """dU/dy = 2 e_c - p for the ReST utility (Eq. 16 differentiated)."""
    split, state = split_tiny(smooth_head())
    rest, found = attribution(split, state, "hirescam", "rest")
    probabilities = found.logits.softmax(dim=1)
    of_class = [attribution(split, state, "hirescam", "pre-softmax", k)[0] for k in range(3)]
    expected = 2 * of_class[CLASS] - sum(probabilities[:, k, None, None] * of_class[k] for k in range(3))
    torch.testing.assert_close(rest, expected, rtol=1e-10, atol=1e-12)


def slow(method: str, a: Tensor, g: Tensor, hessian: Tensor) -> Tensor:
    """One image by loops over channels and positions, straight from the table of the design."""
    channels, height, width = a.shape
    w = g - 0.5 * (hessian @ a.flatten()).reshape(a.shape)
    result = torch.zeros(height, width, dtype=a.dtype)
    for i in range(channels):
        total = a[i].sum()
        weight = {"shapleycam": w[i].mean(), "gradcam": g[i].mean()}.get(method)
        if method == "xgradcam":
            weight = sum(g[i, y, x] * a[i, y, x] / (total + 1e-7) for y in range(height) for x in range(width))
        if method == "gradcam++":
            weight = torch.zeros((), dtype=a.dtype)
            for value in g[i].flatten():
                if value != 0:
                    share = value**2 / (2 * value**2 + total * value**3 + 1e-6)
                    weight += share * max(value, 0)
        for y in range(height):
            for x in range(width):
                by_element = {
                    "hirescam": g[i, y, x] * a[i, y, x],
                    "gradcam-e": max(g[i, y, x] * a[i, y, x], 0),
                    "layercam": max(g[i, y, x], 0) * a[i, y, x],
                    "shapleycam-h": w[i, y, x] * a[i, y, x],
                    "shapleycam-e": max(w[i, y, x] * a[i, y, x], 0),
                }
                result[y, x] += weight * a[i, y, x] if weight is not None else by_element[method]
    return result


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_method_equals_its_definition_with_a_full_hessian(method: str, utility: str) -> None:
    split, state = split_tiny(smooth_head())
    state = first(state)
    found, derivatives = attribution(split, state, method, utility)

    def of_activations(flat: Tensor) -> Tensor:
        logits = split.head(state.with_activations(flat.reshape(state.activations.shape)))
        return utility_of(utility)(logits).sum()

    hessian = torch.autograd.functional.hessian(of_activations, state.activations.flatten())
    gradient = torch.autograd.functional.jacobian(of_activations, state.activations.flatten())
    activations = state.activations[0]
    expected = slow(method, activations, gradient.reshape(activations.shape), hessian)
    torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=1e-12)
    assert derivatives.hvp is not None


def test_cam_is_the_classifier_row_times_the_activations() -> None:
    head = PoolAndClassify()
    split, state = split_tiny(head)
    assert isinstance(split.structure, PooledLinearHead)
    assert split.structure.classifier is head.fc
    rows = split.structure.class_weights(torch.tensor([2, 0]))
    torch.testing.assert_close(rows, head.fc.weight[[2, 0]])
    found = METHODS["cam"].attribute(Evidence(state.activations, state.activations, class_weights=rows))
    expected = torch.stack([(rows[n, :, None, None] * state.activations[n]).sum(0) for n in range(2)])
    torch.testing.assert_close(found, expected)
    # At this layer Grad-CAM of the logit is CAM divided by the number of players (Selvaraju et al. 2017).
    gradcam, _ = attribution(split, state, "gradcam", "pre-softmax", 2)
    torch.testing.assert_close(found[0], 9 * gradcam[0])


def test_a_head_with_more_than_pooling_and_a_linear_layer_has_no_classifier() -> None:
    hidden = nn.Sequential(PoolAndClassify(4, 6), nn.ReLU6(), nn.Linear(6, 3))
    split, _ = split_tiny(hidden)
    assert split.structure.pools
    assert not split.structure.is_closed_form
    assert split_tiny(smooth_head())[0].structure.pools is False
