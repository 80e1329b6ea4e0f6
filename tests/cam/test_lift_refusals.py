"""DeepLIFT contributions: operations without a rule are refused by name, and what is constant may be anything."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.cam.errors import MethodError
from app.cam.split import HookSplit
from app.cam.splitting import split_network
from app.cam.state import SplitState
from tests.cam.games import GRID, linear_head, split_tiny
from tests.cam.lift_heads import Apply, Function, available, head_with, utility_of


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
    "softmin": (lambda x: functional.softmin(x, dim=1), "softmin"),
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


def split_unseen(head: nn.Module) -> tuple[HookSplit, SplitState]:
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
        split.lift_contributions(state, utility_of("rest"))


def test_code_that_ends_the_head_unseen_is_refused() -> None:
    split, state = split_unseen(linear_head())
    split._model.inner[1].append(Apply(scripted))
    with pytest.raises(MethodError, match="hides"):
        split.lift_contributions(state, utility_of("rest"))


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
    found = split.lift_contributions(state, utility_of("rest"))
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
        found.append(split.lift_contributions(state, utility_of("rest")))
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
        split.lift_contributions(state, utility_of("rest"))
