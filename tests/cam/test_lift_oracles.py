"""DeepLIFT contributions against slow chains by hand, a limit, and a peer where it is right."""

import itertools
import math
from collections.abc import Callable

import captum.attr
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.state import SplitState
from app.cam.utilities import UTILITIES
from tests.cam.games import GRID, split_tiny
from tests.cam.lift_heads import CLASS, Apply, Function, available, head_with, utility_of

SCALAR: dict[str, tuple[nn.Module, Callable[[float], float]]] = {
    "relu": (nn.ReLU(), lambda z: max(z, 0.0)),
    "relu6": (nn.ReLU6(), lambda z: min(max(z, 0.0), 6.0)),
    "leaky relu": (nn.LeakyReLU(0.2), lambda z: z if z > 0 else 0.2 * z),
    "elu": (nn.ELU(), lambda z: z if z > 0 else math.expm1(z)),
    "silu": (nn.SiLU(), lambda z: z / (1 + math.exp(-z))),
    "gelu": (nn.GELU(), lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2),
    "hardswish": (nn.Hardswish(), lambda z: z * min(max(z + 3, 0.0), 6.0) / 6),
    "sigmoid": (nn.Sigmoid(), lambda z: 1 / (1 + math.exp(-z))),
    "tanh": (nn.Tanh(), math.tanh),
}


def mean_slope_by_hand(utility: str, start: list[float], end: list[float], steps: int = 20_000) -> list[float]:
    """The midpoint rule, with the derivatives of the utilities written out."""
    total = [0.0] * len(start)
    for step in range(steps):
        t = (step + 0.5) / steps
        logits = [a + t * (b - a) for a, b in zip(start, end, strict=True)]
        scale = sum(map(math.exp, logits))
        p = [math.exp(y) / scale for y in logits]
        for k in range(len(start)):
            chosen = float(k == CLASS)
            total[k] += {
                "pre-softmax": chosen,
                "post-softmax": p[CLASS] * (chosen - p[k]),
                "log-softmax": chosen - p[k],
                "rest": 2 * chosen - p[k],
            }[utility] / steps
    return total


def chain_by_hand(head: nn.Sequential, f: Callable[[float], float], a: Tensor, utility: str) -> list[float]:
    """Unit by unit from the logits down: convolution of 2 x 2, f, linear layer."""
    conv, linear = head[0], head[3]
    side = GRID - 1
    kernel, bias, weight = conv.weight.tolist(), conv.bias.tolist(), linear.weight.tolist()
    start, end = linear.bias.tolist(), linear.bias.tolist()
    units = []
    for k in range(5):
        for row in range(side):
            for column in range(side):
                z0, z = bias[k], bias[k]
                for i in range(a.shape[0]):
                    for dy in range(2):
                        for dx in range(2):
                            z += kernel[k][i][dy][dx] * float(a[i, row + dy, column + dx])
                units.append((k, row, column, z0, z))
                for c in range(len(end)):
                    start[c] += weight[c][len(units) - 1] * f(z0)
                    end[c] += weight[c][len(units) - 1] * f(z)
    slope = mean_slope_by_hand(utility, start, end)
    found = [0.0] * a.shape[0]
    for number, (k, row, column, z0, z) in enumerate(units):
        multiplier = (f(z) - f(z0)) / (z - z0) * sum(slope[c] * weight[c][number] for c in range(len(slope)))
        for i in range(a.shape[0]):
            for dy in range(2):
                for dx in range(2):
                    found[i] += multiplier * kernel[k][i][dy][dx] * float(a[i, row + dy, column + dx])
    return found


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("name", SCALAR)
def test_contributions_equal_a_chain_by_hand(name: str, utility: str) -> None:
    module, f = SCALAR[name]
    head = head_with(module)
    split, state = split_tiny(head)
    state = state.with_activations(4 * state.activations)  # far enough to bend ReLU6
    found = split.lift_contributions(state, utility_of(utility))
    for row, activations in enumerate(state.activations):
        expected = torch.tensor(chain_by_hand(head, f, activations, utility), dtype=torch.float64)
        torch.testing.assert_close(found[row], expected, rtol=1e-6, atol=1e-8)


def captum_contributions(head: nn.Module, activations: Tensor) -> Tensor:
    found = captum.attr.DeepLift(head).attribute(activations, torch.zeros_like(activations), target=CLASS)
    return found.detach().sum(dim=(2, 3))


# It announces its hooks, and itself where the input of a hook is a view.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)),
        lambda: nn.Sequential(nn.Conv2d(4, 6, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 3)),
    ],
    ids=["relu", "relu and max pooling"],
)
def test_heads_of_relus_equal_captum(build: Callable[[], nn.Module]) -> None:
    head = build()
    split, state = split_tiny(head)
    found = split.lift_contributions(state, utility_of("pre-softmax"))
    torch.testing.assert_close(found, captum_contributions(head, state.activations), rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("activation", [nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish])
def test_captum_knows_only_some_functions_and_takes_the_others_for_linear(activation: type[nn.Module]) -> None:
    """Why its DeepLIFT is not used: without a word its contributions sum to something else."""
    head = head_with(activation())
    split, state = split_tiny(head)
    state = state.with_activations(10 * state.activations)
    expected = available(split, state, utility_of("pre-softmax"))
    theirs = captum_contributions(head, state.activations).sum(dim=1)
    assert ((theirs - expected).abs() > 0.01 * expected.abs()).all()
    ours = split.lift_contributions(state, utility_of("pre-softmax")).sum(dim=1)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def ending_with(end: Function | None) -> tuple[SplitNetwork, SplitState]:
    """The same head with something after its logits; activations that move them far."""
    ends = [Apply(end)] if end is not None else []
    split, state = split_tiny(nn.Sequential(*head_with(nn.ReLU()), *ends))
    return split, state.with_activations(20 * state.activations)


@pytest.mark.parametrize(
    "end",
    [
        lambda y: y.log_softmax(dim=1),
        lambda y: torch.log_softmax(y, 1),
        lambda y: functional.log_softmax(y, dim=-1),
        nn.LogSoftmax(dim=1),
    ],
)
def test_a_log_softmax_in_the_head_is_the_utility_of_that_name(end: Function) -> None:
    plain, state = ending_with(None)
    split, _ = ending_with(end)
    found = split.lift_contributions(state, utility_of("pre-softmax"))
    expected = plain.lift_contributions(state, utility_of("log-softmax"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("utility", UTILITIES)
def test_a_softmax_whose_logarithm_is_taken_sums_to_what_is_available(utility: str) -> None:
    split, state = ending_with(lambda y: torch.softmax(y, dim=1).clamp(1e-300, 1 - 1e-16).log())
    found = split.lift_contributions(state, utility_of(utility)).sum(dim=1)
    torch.testing.assert_close(found, available(split, state, utility_of(utility)), rtol=1e-9, atol=1e-9)


def test_the_contributions_to_a_probability_in_the_head_are_those_of_the_utility() -> None:
    plain, state = ending_with(None)
    split, _ = ending_with(lambda y: torch.softmax(y, dim=1))
    found = split.lift_contributions(state, utility_of("pre-softmax"))
    expected = plain.lift_contributions(state, utility_of("post-softmax"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


class OfSum(nn.Module):
    """A function of what the activations and a skip connection give: the reference differs from place to place."""

    def __init__(self, function: nn.Module, side: int) -> None:
        super().__init__()
        self.features, self.skip, self.mix = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(4, 5, 1)
        self.function, self.fc = function, nn.Linear(5 * side**2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self.mix(self.features(x)) + self.skip(x)).flatten(1))


def split_of_sum(function: nn.Module, side: int) -> tuple[OfSum, SplitNetwork, Tensor]:
    torch.manual_seed(0)
    model = OfSum(function, side).double().eval().requires_grad_(False)
    images = torch.randn(2, 3, GRID, GRID, dtype=torch.float64)
    return model, split_network(model, "features", (GRID, GRID)), images


def test_max_pooling_credits_a_rise_to_where_the_maximum_is_and_a_fall_to_where_it_was() -> None:
    model, split, images = split_of_sum(nn.MaxPool2d(2, stride=1), GRID - 1)
    state = split.trunk(images)
    start = model.skip(images) + model.mix.bias[:, None, None]
    end = model.skip(images) + model.mix(state.activations)
    expected = torch.zeros(2, 4, dtype=torch.float64)
    places = set()
    for row, k, top, left in itertools.product(range(2), range(5), range(GRID - 1), range(GRID - 1)):
        window = list(itertools.product((top, top + 1), (left, left + 1)))
        was, now = ({at: float(z[row, k, *at]) for at in window} for z in (start, end))
        change = max(now.values()) - max(was.values())
        then = max(was, key=was.__getitem__)
        place = max(now, key=now.__getitem__) if change > 0 else then
        places.add((change > 0, place == then))
        multiplier = change / (now[place] - was[place]) * model.fc.weight[CLASS, k * 4 + top * 2 + left]
        assert 0 <= change / (now[place] - was[place]) <= 1
        for i in range(4):
            expected[row, i] += multiplier * model.mix.weight[k, i, 0, 0] * state.activations[row, i, *place]
    assert places == {(True, True), (True, False), (False, True)}
    found = split.lift_contributions(state, utility_of("pre-softmax"))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gain = available(split, state, utility_of("pre-softmax"))
    torch.testing.assert_close(found.sum(dim=1), gain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "side"), [(nn.SiLU(), GRID), (nn.MaxPool2d(2, stride=1), GRID - 1)], ids=["silu", "max pooling"]
)
def test_channels_that_cancel_contribute_by_the_derivative(function: nn.Module, side: int) -> None:
    """Units that stay at their reference have the multiplier that units close to it tend to."""
    model, split, images = split_of_sum(function, side)
    model.mix.weight[:, 1] = -model.mix.weight[:, 0]
    model.mix.weight[:, 2:] = 0
    state = split.trunk(images)
    activations = state.activations[:, :1].expand(-1, 4, -1, -1)
    found = split.lift_contributions(state.with_activations(activations), utility_of("rest"))
    nearly = activations + 1e-6 * torch.randn(activations.shape, generator=torch.Generator().manual_seed(0))
    expected = split.lift_contributions(state.with_activations(nearly), utility_of("rest"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found[:, :2].abs().min() > 1e-3
