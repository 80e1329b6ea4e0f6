"""A network split in two is the same network, whatever its layers look like."""

import linecache

import pytest
import timm
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional

from app.cam.engine import explain
from app.cam.errors import LayerError
from app.cam.heads import PooledLinearHead
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import GraphSplit, HookSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES

SIZE = (64, 64)


def frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


def images(count: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return frozen(torchvision.models.resnet18(weights=None))


def gradcam(split: SplitNetwork, x: Tensor) -> Tensor:
    questions = [Question(n, METHODS["gradcam"], UTILITIES["rest"], 1) for n in range(len(x))]
    found = explain(split, x, questions, metrics=False).explanations
    return torch.stack([explanation.attribution for explanation in found])


@pytest.mark.parametrize("layer", ["layer4", "layer4.1.conv2", "layer4.1", "layer2.0.downsample.0", "conv1", "relu"])
def test_trunk_and_head_give_the_logits_of_the_whole(resnet: nn.Module, layer: str) -> None:
    split = split_network(resnet, layer, SIZE)
    assert isinstance(split, GraphSplit)
    x = images()
    rows = torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        found = split.head(split.trunk(x).take(rows))
        torch.testing.assert_close(found, resnet(x)[rows], rtol=1e-4, atol=1e-4)


def test_the_head_runs_on_many_coalitions_of_one_image_with_its_skip_connection(resnet: nn.Module) -> None:
    """U(0) is the head on zero activations with the same carry: the block's input passes on."""
    split = split_network(resnet, "layer4.1.conv2", SIZE)
    x = images(1)
    state = split.trunk(x).take(torch.zeros(5, dtype=torch.long))
    empty_logits = split_by_hand = None
    with torch.no_grad():
        empty_logits = split.head(state.with_activations(torch.zeros_like(state.activations)))
        block = resnet.layer4[1]
        carried = resnet.layer4[0](resnet.layer3(resnet.layer2(resnet.layer1(resnet.maxpool(
            functional.relu(resnet.bn1(resnet.conv1(x)))
        )))))  # fmt: skip
        without = functional.relu(block.bn2(torch.zeros_like(carried)) + carried)
        split_by_hand = resnet.fc(without.mean(dim=(2, 3)))
    assert empty_logits.shape[0] == 5
    torch.testing.assert_close(empty_logits, split_by_hand.expand(5, -1), rtol=1e-4, atol=1e-4)


def test_in_place_relu_after_the_layer_does_not_overwrite_what_it_computed() -> None:
    torch.manual_seed(0)
    model = frozen(torchvision.models.vgg11(weights=None, num_classes=10))
    layer = "features.18"
    split = split_network(model, layer, SIZE)
    x = images(1)
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    with torch.no_grad():
        model(x)
    handle.remove()
    state = split.trunk(x)
    assert (seen[0] < 0).any()
    torch.testing.assert_close(state.activations, seen[0])
    before = state.activations.clone()
    for method in ("gradcam", "shapleycam"):
        explain(split, x, [Question(0, METHODS[method], UTILITIES["rest"])])
        with torch.no_grad():
            split.head(state)
        torch.testing.assert_close(state.activations, before, rtol=0, atol=0)


def test_a_module_called_more_than_once_is_taken_at_its_last_call(resnet: nn.Module) -> None:
    split = split_network(resnet, "layer4.1.relu", SIZE)
    assert split.calls == 2
    x = images(2)
    torch.testing.assert_close(split.trunk(x).activations, split_network(resnet, "layer4", SIZE).trunk(x).activations)
    (explanation,) = explain(
        split, x[:1], [Question(0, METHODS["gradcam"], UTILITIES["rest"])], metrics=False
    ).explanations
    assert any("2 times" in warning for warning in explanation.warnings)


class UntraceableNetwork(nn.Module):
    """Its Python depends on the values of tensors, as no graph can."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            return self.inner(-x)
        return self.inner(x)


@pytest.mark.parametrize("layer", ["layer4", "layer4.1.conv2", "layer4.1.relu"])
def test_hooks_give_what_the_graph_gives(resnet: nn.Module, layer: str) -> None:
    graph = split_network(resnet, layer, SIZE)
    hooks = split_network(frozen(UntraceableNetwork(resnet)), f"inner.{layer}", SIZE)
    assert isinstance(graph, GraphSplit)
    assert isinstance(hooks, HookSplit)
    assert hooks.calls == graph.calls
    x = images()
    torch.testing.assert_close(gradcam(hooks, x), gradcam(graph, x), rtol=1e-4, atol=1e-5)
    assert not any(m._forward_hooks for m in resnet.modules())


class Shortcut(nn.Module):
    """A residual block whose shortcut returns what it was given."""

    def __init__(self, shortcut: nn.Module, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 6, 3, stride=16, padding=1)
        self.main = nn.Conv2d(6, 6, 3, padding=1)
        self.shortcut = shortcut
        self.activation = activation or nn.SiLU()
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x).tanh()
        return self.fc(self.activation(self.main(x) + self.shortcut(x)).mean((2, 3)))


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("shortcut", [nn.Sequential(), nn.Identity(), Same(), nn.Sequential(Same(), Same())])
@pytest.mark.parametrize("method", ["hirescam", "shapleycam-h"])
def test_a_module_that_returns_what_it_was_given_is_not_its_input(shortcut: nn.Module, method: str) -> None:
    """Others use its input too: differences of the utility, with other activations for the shortcut alone."""
    torch.manual_seed(0)
    model = frozen(Shortcut(shortcut).double())
    x = images(1).double()
    a = model.before(x).tanh()

    def utility(activations: Tensor) -> Tensor:
        logits = model.fc(model.activation(model.main(a) + activations).mean((2, 3)))
        return logits[0, 1] + logits.log_softmax(1)[0, 1]

    leaf = a.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(utility(leaf), leaf, create_graph=True)
    (hvp,) = torch.autograd.grad(gradient, leaf, a)
    weights = gradient - hvp / 2 if method == "shapleycam-h" else gradient
    for layer in ["shortcut", "shortcut.1"] if isinstance(shortcut, nn.Sequential) and len(shortcut) else ["shortcut"]:
        split = split_network(model, layer, SIZE)
        assert isinstance(split, GraphSplit)
        question = Question(0, METHODS[method], UTILITIES["rest"], 1)
        (found,) = explain(split, x, [question], metrics=False).explanations
        expected = (weights * a).sum(dim=1)[0].detach()
        torch.testing.assert_close(found.attribution, expected, rtol=1e-9, atol=1e-12)


class Taking(nn.Module):
    """Hands on what is no tensor."""

    def forward(self, x: object) -> object:
        return x


class HandsOnShapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.taking, self.fc = nn.Conv2d(3, 4, 3, stride=16, padding=1), Taking(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.taking(x.shape)[2:]
        return self.fc(self.conv(x).relu().sum((2, 3)) / (height * width))


def test_a_module_that_hands_on_what_is_no_tensor_can_be_traced() -> None:
    assert isinstance(split_network(frozen(HandsOnShapes()), "conv", SIZE), GraphSplit)


def test_a_relu_after_a_module_that_returns_what_it_was_given_is_that_of_the_layer_before() -> None:
    torch.manual_seed(0)
    model = frozen(nn.Sequential(nn.Conv2d(3, 4, 3, stride=16), Same(), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))
    split = split_network(model, "0+relu", SIZE)
    assert isinstance(split, GraphSplit)
    torch.testing.assert_close(split.trunk(images()).activations, model[0](images()).relu())


@fx.wrap
def with_factor(x: Tensor) -> tuple[Tensor, float]:
    return x.tanh(), 2.0


class PairAround(nn.Module):
    """What crosses its last convolution is a pair, which a graph cannot carry."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=16, padding=1)
        self.last = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, factor = with_factor(self.stem(x))
        return self.fc((self.last(x) * factor).relu().mean((2, 3)))


def test_a_pair_that_crosses_the_layer_is_no_crash() -> None:
    torch.manual_seed(0)
    model = frozen(PairAround())
    split = split_network(model, "last", SIZE)
    with torch.no_grad():
        torch.testing.assert_close(split.head(split.trunk(images())), model(images()))


def test_hooks_leave_with_an_error() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fail = nn.Conv2d(3, 4, 3), False

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if x.sum() > 1e9 or self.fail:
                raise RuntimeError("broken")
            return y.mean(dim=(2, 3))

    model = frozen(Failing())
    split = split_network(model, "conv", SIZE)
    model.fail = True
    state = split.trunk(images())
    with pytest.raises(RuntimeError, match="broken"):
        split.head(state)
    assert not model.conv._forward_hooks


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("swin_tiny_patch4_window7_224", "norm", (768, 7, 7)),
        ("swin_tiny_patch4_window7_224", "layers.3.blocks.1.norm1", (768, 7, 7)),
        ("vit_tiny_patch16_224", "blocks.11.norm1", (192, 14, 14)),
        ("mixer_s32_224", "blocks.7.norm1", (512, 7, 7)),
        ("convnext_atto", "stages.3", (320, 7, 7)),
    ],
)
def test_layouts_of_transformers_become_channels_first(name: str, layer: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = frozen(timm.create_model(name, num_classes=10))
    split = split_network(model, layer, (224, 224))
    x = images(2, (224, 224))
    state = split.trunk(x)
    assert tuple(state.activations.shape) == (2, *shape)
    rows = torch.tensor([1, 0, 1])
    with torch.no_grad():
        torch.testing.assert_close(split.head(state.take(rows)), model(x)[rows], rtol=1e-4, atol=1e-4)


def test_positions_of_the_grid_are_rows_then_columns() -> None:
    """A token network's positions must not be transposed: mark one patch and find it again."""
    model = frozen(timm.create_model("vit_tiny_patch16_224", num_classes=10))
    split = split_network(model, "patch_embed", (224, 224))
    x = torch.zeros(1, 3, 224, 224)
    x[:, :, 2 * 16 : 3 * 16, 11 * 16 : 12 * 16] = 5.0
    activations = split.trunk(x).activations
    difference = (activations - activations[:, :, :1, :1]).abs().sum(dim=1)[0]
    assert difference.nonzero().tolist() == [[2, 11]]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("layer9", "no module"),
        ("", "no module"),
        ("fc", "no spatial grid"),
        ("avgpool", "no spatial grid"),
    ],
)
def test_a_layer_that_cannot_be_explained_is_refused(resnet: nn.Module, layer: str, reason: str) -> None:
    with pytest.raises(LayerError, match=reason):
        split_network(resnet, layer, SIZE)


def test_a_layer_that_never_runs_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.add_module("spare", nn.Identity())
    model.forward = lambda x: model[2](model[1](model[0](x)))  # type: ignore[method-assign]
    with pytest.raises(LayerError, match="does not run"):
        split_network(frozen(model), "spare", SIZE)


def test_the_classifier_after_pooling_is_found(resnet: nn.Module) -> None:
    structure = split_network(resnet, "layer4", SIZE).structure
    assert isinstance(structure, PooledLinearHead)
    assert structure.classifier is resnet.fc
    assert not split_network(resnet, "layer4.1.conv2", SIZE).structure.is_closed_form


def test_splitting_again_and_again_keeps_no_source_of_its_graphs(resnet: nn.Module) -> None:
    """A caller may name one layer after the other, for as long as the service runs."""
    before = sum(name.startswith("<eval_with_key>") for name in linecache.cache)
    split = split_network(resnet, "layer3", SIZE)
    assert sum(name.startswith("<eval_with_key>") for name in linecache.cache) == before
    with pytest.raises(RuntimeError, match="type"):
        split.trunk(images().double())
