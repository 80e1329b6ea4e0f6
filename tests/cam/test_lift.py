"""DeepLIFT contributions: what they sum to, slow chains by hand, a peer where it is right, and what is refused."""

import gc
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import captum.attr
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torch.nn import functional

from app.cam.errors import MethodError
from app.cam.lift import contributions
from app.cam.split import HookSplit, SplitNetwork, State
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES, values_of_rows
from app.imaging import normalise, render_view
from service_models import CATALOGUE, Network, load_network
from service_models.spec import Random
from tests.cam.games import GRID, PoolAndClassify, linear_head, smooth_head, split_tiny

EMBEDDED = "tf_efficientnet_lite0"
CLASS = 1
Function = Callable[[Tensor], Tensor]


def utility_of(name: str, target: int = CLASS) -> Function:
    return lambda logits: UTILITIES[name].of(logits, torch.full((len(logits),), target))


def available(split: SplitNetwork, state: State, utility: Function) -> Tensor:
    """U(A) - U(0), in float64."""
    with torch.no_grad():
        silent = split.head(state.with_activations(torch.zeros_like(state.activations)))
        return utility(split.head(state).double()) - utility(silent.double())


class Apply(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def head_with(function: Function | nn.Module, channels: int = 4, classes: int = 3) -> nn.Module:
    """A convolution, something else of the same shape, and a linear layer."""
    middle = function if isinstance(function, nn.Module) else Apply(function)
    size = 5 * (GRID - 1) ** 2
    return nn.Sequential(nn.Conv2d(channels, 5, 2), middle, nn.Flatten(), nn.Linear(size, classes))


def gelu_by_hand(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def hardswish_in_place(x: Tensor) -> Tensor:
    return x.mul_(functional.relu6(x + 3).div_(6))


ELEMENTWISE: dict[str, Function | nn.Module] = {
    "relu": nn.ReLU(),
    "relu method": Tensor.relu,
    "torch.relu": torch.relu,
    "relu6": nn.ReLU6(),
    "hardtanh": nn.Hardtanh(-0.3, 0.4),
    "leaky relu": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(5),
    "elu": nn.ELU(1.5),
    "celu": nn.CELU(0.7),
    "selu": nn.SELU(),
    "silu": nn.SiLU(),
    "swish by hand": lambda x: x * x.sigmoid(),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU(approximate="tanh"),
    "gelu by hand": gelu_by_hand,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "tanh": Tensor.tanh,
    "softplus": nn.Softplus(beta=2),
    "mish": nn.Mish(),
    "logsigmoid": nn.LogSigmoid(),
    "softsign": nn.Softsign(),
    "exp": torch.exp,
    "clamp": lambda x: x.clamp(min=-0.2, max=0.5),
    "square": lambda x: x**2,
    "pow": lambda x: x.clamp(min=1e-6).pow(3),
}
IN_PLACE: dict[str, tuple[Function | nn.Module, Function | nn.Module]] = {
    "relu": (nn.ReLU(inplace=True), nn.ReLU()),
    "relu positional": (lambda x: functional.relu(x, True), functional.relu),
    "relu_ method": (lambda x: x.relu_(), functional.relu),
    "torch.relu_": (torch.relu_, functional.relu),
    "relu6": (nn.ReLU6(inplace=True), nn.ReLU6()),
    "silu": (nn.SiLU(inplace=True), nn.SiLU()),
    "sigmoid_": (lambda x: x.sigmoid_(), torch.sigmoid),
    "clamp_": (lambda x: x.clamp_(min=0.1), lambda x: x.clamp(min=0.1)),
    "leaky_relu_": (functional.leaky_relu_, functional.leaky_relu),
    "hardswish": (hardswish_in_place, functional.hardswish),
    "mul_": (lambda x: x.mul_(x.sigmoid()), functional.silu),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_contributions_sum_to_the_gain_of_the_utility(name: str) -> None:
    split, state = split_tiny(head_with(ELEMENTWISE[name]))
    for utility in UTILITIES:
        found = contributions(split, state, utility_of(utility))
        expected = available(split, state, utility_of(utility))
        torch.testing.assert_close(found.sum(dim=1), expected, rtol=1e-9, atol=1e-12)
        assert not found.requires_grad
        assert expected.abs().min() > 1e-4


@pytest.mark.parametrize("name", IN_PLACE)
def test_operations_in_place_contribute_as_those_that_are_not(name: str) -> None:
    in_place, plain = IN_PLACE[name]
    split, state = split_tiny(head_with(in_place))
    before = state.activations.clone()
    found = contributions(split, state, utility_of("rest"))
    torch.testing.assert_close(state.activations, before, rtol=0, atol=0)
    expected = contributions(*split_tiny(head_with(plain)), utility_of("rest"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_an_operation_in_place_whose_result_is_dropped_still_happens() -> None:
    def overwrite(x: Tensor) -> Tensor:
        functional.relu6(x, inplace=True)
        return x

    found = contributions(*split_tiny(head_with(overwrite)), utility_of("rest"))
    expected = contributions(*split_tiny(head_with(functional.relu6)), utility_of("rest"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_what_is_overwritten_later_was_noted_before() -> None:
    def overwrite(x: Tensor) -> Tensor:
        gate = x.sigmoid()
        return x.mul_(2).add_(gate)

    split, state = split_tiny(head_with(overwrite))
    found = contributions(split, state, utility_of("rest"))
    expected = contributions(*split_tiny(head_with(lambda x: 2 * x + x.sigmoid())), utility_of("rest"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


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
    found = contributions(split, state, utility_of(utility))
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
    found = contributions(split, state, utility_of("pre-softmax"))
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
    ours = contributions(split, state, utility_of("pre-softmax")).sum(dim=1)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


class SqueezeAndExcite(nn.Module):
    def __init__(self, channels: int = 5) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 3, 1), nn.Conv2d(3, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.silu(self.down(functional.adaptive_avg_pool2d(x, 1)), inplace=True)
        return torch.sigmoid(self.up(gate)) * x


class Mixture(nn.Module):
    """Linear operations of many kinds around one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.scale = nn.BatchNorm2d(5), nn.Dropout(), nn.Parameter(torch.rand(5, 1, 1))
        self.norm.running_mean = torch.randn(5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.drop(self.norm(x)).chunk(2, dim=3)
        right = right.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) / 3 - self.scale
        rows = x.new_zeros(x.shape)
        rows[:, :, :1] = x[:, :, 1:]
        padded = functional.pad(functional.avg_pool2d(x, 2), (0, 1, 0, 1), mode="replicate")
        x = torch.cat((1 - left, right), dim=3) * self.scale
        x = torch.where(torch.tensor([True, False]), x, -x) + rows + padded
        x += torch.einsum("rchw,cd->rdhw", x, torch.eye(5, dtype=x.dtype))
        return functional.gelu(x)


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize(
    "middle",
    [SqueezeAndExcite(), Mixture(), nn.MaxPool2d(2, 1, 1, ceil_mode=False)],
    ids=["squeeze and excite", "mixture", "overlapping max pooling"],
)
def test_products_pools_and_linear_maps_close_the_sum(middle: nn.Module, utility: str) -> None:
    size = 5 * (GRID if isinstance(middle, nn.MaxPool2d) else GRID - 1) ** 2
    head = nn.Sequential(nn.Conv2d(4, 5, 2), middle, nn.Flatten(), nn.Linear(size, 3))
    split, state = split_tiny(head)
    found = contributions(split, state, utility_of(utility))
    expected = available(split, state, utility_of(utility))
    torch.testing.assert_close(found.sum(dim=1), expected, rtol=1e-9, atol=1e-12)


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
    found = contributions(split, state, utility_of("pre-softmax"))
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
    found = contributions(split, state.with_activations(activations), utility_of("rest"))
    nearly = activations + 1e-6 * torch.randn(activations.shape, generator=torch.Generator().manual_seed(0))
    expected = contributions(split, state.with_activations(nearly), utility_of("rest"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found[:, :2].abs().min() > 1e-3


@pytest.mark.parametrize("utility", UTILITIES)
def test_the_closed_form_equals_the_general_route(utility: str) -> None:
    split, state = split_tiny(PoolAndClassify())
    assert split.classifier is not None
    found = contributions(split, state, utility_of(utility))
    split.classifier = None
    torch.testing.assert_close(found, contributions(split, state, utility_of(utility)), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("utility", ["rest", "post-softmax"])
@pytest.mark.parametrize("size", [1.0, 30.0, 200.0])
def test_the_line_through_a_sharp_softmax_is_integrated_to_rounding(size: float, utility: str) -> None:
    """A thousand classes of which another leads half way."""
    split, state = split_tiny(PoolAndClassify(classes=1000))
    assert split.classifier is not None
    with torch.no_grad():
        split.classifier.bias[7] = size / 2
        change = split.classifier(state.activations.mean(dim=(2, 3))) - split.classifier.bias
        state = state.with_activations(state.activations * size / change.amax(dim=1)[:, None, None, None])
        targets = split.head(state).topk(2, dim=1).indices
    target = int(targets[0, 0]) if int(targets[0, 0]) != 7 else int(targets[0, 1])
    found = contributions(split, state, utility_of(utility, target))
    expected = available(split, state, utility_of(utility, target))
    torch.testing.assert_close(found.sum(dim=1), expected, rtol=1e-9, atol=1e-9)


def test_rows_do_not_mix() -> None:
    split, state = split_tiny(nn.Sequential(SqueezeAndExcite(4), smooth_head()))
    state = state.take(torch.tensor([0, 1, 1]))
    targets, names = torch.tensor([2, 0, 1]), ["rest", "post-softmax", "pre-softmax"]

    def of_rows(rows: Sequence[int]) -> Tensor:
        index = torch.tensor(rows)
        utilities = [UTILITIES[names[row]] for row in rows]
        return contributions(split, state.take(index), lambda logits: values_of_rows(logits, targets[index], utilities))

    alone = torch.cat([of_rows([row]) for row in range(3)])
    torch.testing.assert_close(of_rows([0, 1, 2]), alone, rtol=1e-9, atol=1e-12)


def test_activations_at_the_reference_contribute_nothing() -> None:
    split, state = split_tiny(head_with(nn.SiLU()))
    silent = state.with_activations(torch.zeros_like(state.activations))
    assert torch.count_nonzero(contributions(split, silent, utility_of("rest"))) == 0


@pytest.mark.parametrize("module", [nn.SiLU(), nn.ELU(), nn.Hardswish()])
def test_multipliers_near_the_reference_keep_float32_precision(module: nn.Module) -> None:
    """A quotient of float32 differences would be off by percents here."""
    split, state = split_tiny(head_with(module))
    state = state.with_activations(1e-5 * state.activations)
    expected = contributions(split, state, utility_of("rest"))
    split._cut.head.float()
    found = contributions(split, state.with_activations(state.activations.float()), utility_of("rest"))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def without_autograd(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x + 1


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated, but networks have it

    @torch.jit.script
    def scripted(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


REFUSED: dict[str, tuple[Function, str]] = {
    "cumprod": (lambda x: x.cumprod(dim=1), "cumprod"),
    "sort": (lambda x: torch.sort(x, dim=1).values, "sort"),
    "softmax": (lambda x: x.softmax(dim=1), "softmax"),
    "layer norm": (lambda x: functional.layer_norm(x, x.shape[2:]), "layer_norm"),
    "group norm": (lambda x: functional.group_norm(x, 1), "group_norm"),
    "instance norm": (functional.instance_norm, "instance_norm"),
    "normalize": (functional.normalize, "normalize"),
    "matmul": (lambda x: x @ x, "matmul of two tensors that both depend"),
    "attention": (lambda x: functional.scaled_dot_product_attention(x, x, x), "scaled_dot_product_attention"),
    "division": (lambda x: x / (1 + x.abs()), "div by a tensor that depends"),
    "reciprocal": (lambda x: 1 / (3 + x), "rdiv"),
    "dropout in training": (lambda x: functional.dropout(x, training=True), "dropout in training mode"),
    "batch norm in training": (
        lambda x: functional.batch_norm(x, None, None, training=True),
        "batch_norm in training mode",
    ),
    "comparison": (lambda x: torch.where(x > 0, x, 0 * x), "gt"),
    "value": (lambda x: x * float(x.sum()), "__float__|float"),
    "detach": (lambda x: x + x.detach(), "detach"),
    "data": (lambda x: x + x.data, "data"),
    "integers": (lambda x: x + x.to(torch.int64), "to"),
    "no_grad": (without_autograd, "without autograd"),
    "own derivative": (Squared.apply, "without autograd"),
    "script": (scripted, "code that torch hides"),
    "out": (lambda x: torch.add(x, x, out=torch.empty_like(x)), "out"),
}


class Unseen(nn.Module):
    """Runs a head that symbolic tracing cannot follow."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(-x if x.sum() > 1e9 else x)


def split_unseen(head: nn.Module) -> tuple[HookSplit, State]:
    torch.manual_seed(0)
    model = Unseen(nn.Sequential(nn.Conv2d(3, 4, 1), head)).double().eval().requires_grad_(False)
    split = split_network(model, "inner.0", (GRID, GRID))
    assert isinstance(split, HookSplit)
    return split, split.trunk(torch.randn(2, 3, GRID, GRID, dtype=torch.float64))


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name: str) -> None:
    function, message = REFUSED[name]
    torch.manual_seed(0)
    split, state = split_unseen(head_with(nn.Identity()))
    split._model.inner[1][1] = Apply(function)
    with pytest.raises(MethodError, match=rf"no rule for .*({message}).*follows 'inner\.0'"):
        contributions(split, state, utility_of("rest"))


def test_code_that_ends_the_head_unseen_is_refused() -> None:
    split, state = split_unseen(linear_head())
    split._model.inner[1].append(Apply(scripted))
    with pytest.raises(MethodError, match="hides"):
        contributions(split, state, utility_of("rest"))


class Constants(nn.Module):
    """Its branch of parameters alone may do anything."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(5, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.mixing).cumprod(dim=0)
        order = torch.sort(self.mixing.flatten()).indices
        return functional.silu(gate * x)[:, order]


def test_constants_of_the_network_may_be_anything() -> None:
    split, state = split_tiny(head_with(Constants()))
    found = contributions(split, state, utility_of("rest"))
    expected = available(split, state, utility_of("rest"))
    torch.testing.assert_close(found.sum(dim=1), expected, rtol=1e-9, atol=1e-12)


class Skipping(nn.Module):
    """The head's other branch depends on the image alone, and gates what the activations give."""

    def __init__(self, seen: bool) -> None:
        super().__init__()
        self.seen, self.features = seen, nn.Conv2d(3, 4, 1)
        self.gate, self.head = nn.Conv2d(3, 4, 1), linear_head()

    def forward(self, x: Tensor) -> Tensor:
        if not self.seen and x.sum() > 1e9:
            x = -x
        gate = self.gate(x).softmax(dim=1).cumprod(dim=1)
        return self.head(functional.relu(gate * self.features(x) + gate - 0.2, inplace=True))


def test_a_branch_of_the_carry_is_a_constant_with_hooks_as_in_a_graph() -> None:
    found = []
    for seen in (True, False):
        torch.manual_seed(0)
        model = Skipping(seen).double().eval().requires_grad_(False)
        split = split_network(model, "features", (GRID, GRID))
        assert isinstance(split, HookSplit) is not seen
        state = split.trunk(torch.randn(2, 3, GRID, GRID, dtype=torch.float64))
        found.append(contributions(split, state, utility_of("rest")))
        expected = available(split, state, utility_of("rest"))
        torch.testing.assert_close(found[-1].sum(dim=1), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


class Fickle(nn.Module):
    """Computes something else at every call."""

    def __init__(self, *functions: Function) -> None:
        super().__init__()
        self.functions, self.calls = functions, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.functions[self.calls % len(self.functions)](x)


@pytest.mark.parametrize(
    "functions",
    [(torch.relu, torch.tanh), (torch.relu, torch.neg), (torch.neg, torch.relu)],
    ids=["another", "one more", "one less"],
)
def test_a_head_that_changes_between_two_passes_is_refused(functions: tuple[Function, Function]) -> None:
    split, state = split_unseen(head_with(nn.Identity()))
    split._model.inner[1][1] = Fickle(*functions)
    with pytest.raises(MethodError, match="same operations"):
        contributions(split, state, utility_of("rest"))


def test_contributions_leave_nothing_behind() -> None:
    split, state = split_tiny(nn.Sequential(SqueezeAndExcite(4), smooth_head()))

    def live_tensors() -> int:
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())

    contributions(split, state, utility_of("rest"))
    gc.collect()
    tensors = live_tensors()
    gc.disable()  # a cycle would have to wait for the collector: there must be none
    try:
        for _ in range(20):
            contributions(split, state, utility_of("rest"))
        assert live_tensors() <= tensors
    finally:
        gc.enable()
    assert torch.is_grad_enabled()
    assert torch.overrides._get_current_function_mode_stack() == []


@pytest.fixture(scope="module", params=[EMBEDDED, "resnet18", "vgg16", "efficientnet_b0", "mobilenet_v2"])
def network(request: pytest.FixtureRequest) -> Network:
    return load(request.param)


def load(name: str) -> Network:
    spec = CATALOGUE[name]
    return load_network(spec if name == EMBEDDED else replace(spec, weights=Random(0)), torch.device("cpu"), None)


def cat(network: Network) -> Tensor:
    view = render_view(Image.fromarray(data.chelsea()), network.preprocessing)
    return normalise(view[None], network.preprocessing, "cpu")


def assert_closed(network: Network, layer: str) -> None:
    split = split_network(network.model, network.layers[layer], network.preprocessing.input_size)
    state = split.trunk(cat(network))
    with torch.no_grad():
        target = int(split.head(state).argmax())
    expected = available(split, state, utility_of("rest", target))
    assert expected.abs() > 1
    for classifier in {split.classifier, None}:
        split.classifier = classifier
        found = contributions(split, state, utility_of("rest", target))
        assert found.shape == (1, split.grid.channels)
        torch.testing.assert_close(found.sum(dim=1).double(), expected, rtol=1e-4, atol=0)


def test_the_sum_closes_at_every_named_layer(network: Network) -> None:
    for layer in network.layers:
        assert_closed(network, layer)


def test_a_transformer_is_refused_where_attention_follows_and_explained_after_it() -> None:
    network = load("swin_tiny_patch4_window7_224")
    assert_closed(network, "pre_gap")
    split = split_network(network.model, network.layers["last_norm"], network.preprocessing.input_size)
    with pytest.raises(MethodError, match=r"no rule for matmul .*follows 'layers\.3\.blocks\.1\.norm1'"):
        contributions(split, split.trunk(cat(network)), utility_of("rest"))
