"""What score functions make of logits; tests/cam/test_own_networks.py has whole networks with them."""

import pytest
import torch

from app.cam.utilities import CANONICAL, UTILITIES, utilities_of
from service_models import SIGMOID


@pytest.mark.parametrize("utility", UTILITIES)
def test_derivatives_of_the_utilities_are_those_of_the_formulas(utility: str) -> None:
    y = torch.linspace(-8, 8, 9, dtype=torch.float64).requires_grad_()
    s = torch.sigmoid(y.detach())
    first, second = {
        "pre-softmax": (torch.ones_like(s), torch.zeros_like(s)),
        "post-softmax": (s * (1 - s), s * (1 - s) * (1 - 2 * s)),
        "log-softmax": (1 - s, -s * (1 - s)),
        "rest": (2 - s, -s * (1 - s)),
    }[utility]
    logits = torch.stack((torch.zeros_like(y), y), dim=1)
    values = utilities_of(SIGMOID)[utility].of(logits, torch.ones(9, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(values.sum(), y, create_graph=True)
    torch.testing.assert_close(gradient.detach(), first, rtol=1e-12, atol=1e-15)
    if gradient.requires_grad:
        (curvature,) = torch.autograd.grad(gradient.sum(), y, allow_unused=True, materialize_grads=True)
        torch.testing.assert_close(curvature, second, rtol=1e-10, atol=1e-13)


def test_a_logit_far_from_zero_keeps_its_logarithm() -> None:
    logits = torch.tensor([[-900.0, 0.0]])
    value = utilities_of(SIGMOID)["log-softmax"].of(logits, torch.tensor([0]))
    assert value.item() == -900.0


def test_both_names_of_a_utility_mean_the_same() -> None:
    aliases = {"logit": "pre-softmax", "probability": "post-softmax", "log-probability": "log-softmax"}
    assert {**{name: name for name in UTILITIES}, **aliases} == CANONICAL
