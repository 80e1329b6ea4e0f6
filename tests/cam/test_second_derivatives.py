"""Operations that PyTorch cannot differentiate twice: replaced by equal formulas, or refused by name."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers.create_act import _ACT_LAYER_DEFAULT, _ACT_LAYER_ME
from torch import Tensor, nn
from torch.nn import functional

from app.cam.acceleration import accelerate
from app.cam.curvature import TwiceDifferentiable
from app.cam.engine import explain
from app.cam.errors import MethodError
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import GraphSplit, HookSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.state import SplitState
from app.cam.utilities import UTILITIES
from service_models import calibrate_random_weights
from service_models.calibration import structured_images
from tests.cam.games import GRID, linear_head, split_tiny
from tests.cam.opaque import WITHOUT_FIRST, WITHOUT_SECOND

SIZE = (64, 64)


def utility_of_first(logits: Tensor) -> Tensor:
    return UTILITIES["rest"].of(logits, torch.zeros(len(logits), dtype=torch.int64))


def assert_exact(split: SplitNetwork, state: SplitState, step: float = 1e-8) -> None:
    """Compares the Hessian-vector product with differences of gradients, in float64."""
    assert state.activations.dtype == torch.float64
    found = split.differentiate(state, utility_of_first, second_order=True).hvp
    assert found is not None

    def gradients(scale: float) -> Tensor:
        scaled = state.with_activations(state.activations * scale)
        return split.differentiate(scaled, utility_of_first, second_order=False).gradients

    expected = (gradients(1 + step) - gradients(1 - step)) / (2 * step)
    assert expected.norm() > 1e-6
    torch.testing.assert_close(found, expected, rtol=0, atol=float(1e-4 * expected.norm()))


MASKS = {
    "none": {},
    "booleans": {"attn_mask": torch.tensor([[True, False, True], [True, True, True], [False, True, True]])},
    "numbers": {"attn_mask": torch.tensor([[0.0, -1.0, 2.0], [0.5, 0.0, 0.0], [-3.0, 1.0, 0.0]])},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "a row that sees nothing": {"attn_mask": torch.tensor([[True, True, True], [False, False, False], [True] * 3])},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
def test_attention_in_steps_equals_the_fused_one(options: dict[str, Any]) -> None:
    query, key, value = torch.randn(3, 2, 4, 3, 8, generator=torch.Generator().manual_seed(0))
    expected = functional.scaled_dot_product_attention(query, key, value, **options)
    with TwiceDifferentiable():
        found = functional.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ({}, {}),
        ({"add_bias_kv": True, "add_zero_attn": True}, {}),
        ({"kdim": 6, "vdim": 6}, {}),
        ({"bias": False}, {"average_attn_weights": False}),
        ({}, {"key_padding_mask": torch.tensor([[False, True, False], [False, False, True]])}),
        ({}, {"attn_mask": torch.ones(3, 3, dtype=torch.bool).triu(1), "is_causal": True}),
        ({}, {"attn_mask": torch.randn(3, 3, generator=torch.Generator().manual_seed(1))}),
    ],
    ids=["plain", "further tokens", "other widths", "each head", "padding", "causal", "numbers"],
)
def test_multi_head_attention_in_steps_equals_the_fused_one(
    made: dict[str, Any], asked: dict[str, Any], need_weights: bool
) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **made).eval().requires_grad_(False)
    query = torch.randn(2, 3, 8)
    other = torch.randn(2, 3, 6) if "kdim" in made else query
    expected = attention(query, other, other, need_weights=need_weights, **asked)
    with TwiceDifferentiable():
        found = attention(query, other, other, need_weights=need_weights, **asked)
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1] is None) == (expected[1] is None)
    if need_weights:
        torch.testing.assert_close(found[1], expected[1])


HARD_SIGMOIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "function": functional.hardsigmoid,
    "function in place": lambda x: functional.hardsigmoid(x, inplace=True),
    "of torch._C": torch._C._nn.hardsigmoid,
    "of torch._C, in place": torch._C._nn.hardsigmoid_,
    "module": nn.Hardsigmoid(),
    "module in place": nn.Hardsigmoid(inplace=True),
}


@pytest.mark.parametrize("name", HARD_SIGMOIDS)
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_the_hard_sigmoid_is_the_same_to_the_last_bit(name: str, precision: torch.dtype) -> None:
    values = 3 * torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    values = torch.cat((values, torch.tensor([-3.0, 3.0, 0.0, torch.inf, -torch.inf]))).to(precision)
    plain, replaced = values.clone(), values.clone()
    expected = HARD_SIGMOIDS[name](plain)
    with TwiceDifferentiable():
        found = HARD_SIGMOIDS[name](replaced)
    assert torch.equal(found, expected)
    assert torch.equal(replaced, plain)


class ApplyBetweenConvolutions(nn.Module):
    """An operation between two convolutions, and squares, so that the second derivative is nowhere trivial."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.classify = linear_head()
        self.operation = operation

    def forward(self, activations: Tensor) -> Tensor:
        return self.classify(self.second(self.operation(self.first(activations).square())))


@pytest.mark.parametrize("name", HARD_SIGMOIDS)
def test_the_hard_sigmoid_has_a_second_derivative(name: str) -> None:
    assert_exact(*split_tiny(ApplyBetweenConvolutions(HARD_SIGMOIDS[name])))


ACTIVATIONS = {
    f"{name} {kind.__name__}": kind
    for layers in (_ACT_LAYER_DEFAULT, _ACT_LAYER_ME)
    for name, kind in layers.items()
    if name != "prelu"
}


@pytest.mark.parametrize("kind", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_every_activation_function_of_timm_has_a_second_derivative(kind: type[nn.Module]) -> None:
    assert_exact(*split_tiny(ApplyBetweenConvolutions(kind())))


@pytest.mark.parametrize("zero", [False, True])
def test_a_vector_over_its_norm_has_a_second_derivative_where_it_is_zero_too(zero: bool) -> None:
    def normalized(activations: Tensor) -> Tensor:
        edge = activations.clone()
        edge[..., 0] *= 0.0 if zero else 1.0
        return edge + functional.normalize(edge, dim=1)

    split, state = split_tiny(ApplyBetweenConvolutions(normalized))
    assert_exact(split, state)
    vectors = state.activations * torch.tensor([0.0, 1e-13, 1.0])
    with TwiceDifferentiable():
        torch.testing.assert_close(
            functional.normalize(vectors.requires_grad_()), functional.normalize(vectors.detach())
        )


class WithAttention(nn.Module):
    """Attention of torch's own module over the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.classify = linear_head()

    def forward(self, activations: Tensor) -> Tensor:
        tokens = activations.flatten(2).transpose(1, 2)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.classify((tokens + mixed).transpose(1, 2).unflatten(2, (GRID, GRID)))


def test_multi_head_attention_has_a_second_derivative() -> None:
    assert_exact(*split_tiny(WithAttention()))


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "nn.MultiheadAttention": (torchvision_vit, "encoder.layers.encoder_layer_0.ln_1"),
    "fused attention": (lambda: timm.create_model("test_vit", num_classes=10, img_size=64), "blocks.0.norm1"),
    "hard sigmoid and hard swish": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=10), "blocks.0"),
    "hard sigmoid of torchvision": (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), "features.2"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_such_operations_are_explained_at_inner_layers(name: str) -> None:
    make, layer = NETWORKS[name]
    model = calibrate_random_weights(make(), 0, SIZE).double().requires_grad_(False)
    split = split_network(model, layer, SIZE)
    assert isinstance(split, GraphSplit)
    assert split.structure.no_second_derivative is None
    assert_exact(split, split.trunk(structured_images(1, SIZE, torch.Generator().manual_seed(3)).double()))


class Hidden(nn.Module):
    """A layer and an operation, in a network that cannot be traced: its autograd functions stay what they are."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 1), ApplyBetweenConvolutions(operation)

    def forward(self, images: Tensor) -> Tensor:
        if images.sum() == torch.inf:
            raise ValueError
        return self.head(self.features(images))


def hidden(operation: Callable[[Tensor], Tensor]) -> tuple[SplitNetwork, Tensor]:
    torch.manual_seed(0)
    split = split_network(Hidden(operation).eval().requires_grad_(False), "features", (GRID, GRID))
    assert isinstance(split, HookSplit)
    return split, torch.randn(3, 3, GRID, GRID)


def asked(split: SplitNetwork, images: Tensor, method: str) -> Tensor:
    explained = explain(split, images[:1], [Question(0, METHODS[method], UTILITIES["rest"], target=0)])
    return explained.explanations[0].attribution


@pytest.mark.parametrize("name", WITHOUT_SECOND)
def test_what_has_no_second_derivative_is_named_and_first_order_methods_answer(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    operation, said = WITHOUT_SECOND[name]
    split, images = hidden(operation)
    assert f"no second derivative of '{said}', which follows 'features'" in caplog.text
    for method in ("shapleycam", "shapleycam-h", "shapleycam-e"):
        with pytest.raises(MethodError, match=f"'{method}' needs the second derivative of '{said}'.*'features'.*grad"):
            asked(split, images, method)
    plain, _ = hidden(lambda x: functional.relu6(x + 3) / 6 if said == "hardsigmoid" else x.sigmoid())
    if name != "in C++":
        torch.testing.assert_close(asked(split, images, "gradcam"), asked(plain, images, "gradcam"))


@pytest.mark.parametrize("name", WITHOUT_FIRST)
def test_what_has_no_derivative_is_named_and_other_methods_answer(name: str, caplog: pytest.LogCaptureFixture) -> None:
    operation, said = WITHOUT_FIRST[name]
    split, images = hidden(operation)
    assert f"no derivative of '{said}', which follows 'features'" in caplog.text
    for method in ("shapleycam", "gradcam", "aumann-shapley"):
        with pytest.raises(MethodError, match=f"the derivative of '{said}'.*'features'.*scorecam"):
            asked(split, images, method)
    assert asked(split, images, "scorecam").isfinite().all()


class Gate(nn.Module):
    """A head that spells the hard sigmoid in a way that is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.classify = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, activations: Tensor) -> Tensor:
        gate = torch.ops.aten.hardsigmoid.default(self.gate(activations))
        return self.classify((activations * gate).mean(dim=(2, 3)))


def test_a_trunk_is_accelerated_where_the_head_has_no_second_derivative(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Gate()).eval().requires_grad_(False)
    split = split_network(model, "1", (8, 8))
    assert isinstance(split, GraphSplit)
    assert split.structure.no_second_derivative == "hardsigmoid"
    assert accelerate(split, ("openvino", "eager"), torch.randn(3, 3, 8, 8), "float32") == "openvino"
    assert "is run by openvino" in caplog.text
