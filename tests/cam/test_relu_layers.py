"""`MODULE+relu` is what the ReLU makes of a module's output, where the ReLU has no path of its own."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from app.cam.acceleration import accelerate
from app.cam.engine import explain
from app.cam.errors import LayerError
from app.cam.heads import PooledLinearHead
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.sharing import SharedTrunk
from app.cam.split import GraphSplit, HookSplit, SplitNetwork
from app.cam.splitting import split_network
from app.cam.trunks import Engine, build_trunk
from app.cam.utilities import UTILITIES
from service_models import calibrate_random_weights
from service_models.calibration import structured_images
from service_models.layers import infer_layers

SIZE = (64, 64)
CLASS = 3
LAYER = "features.norm5+relu"


class Untraceable(nn.Module):
    """Its Python depends on the values of tensors, as no graph can."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(-x if x.sum() > 1e9 else x)


def frozen(model: nn.Module) -> nn.Module:
    return calibrate_random_weights(model, 0, SIZE).requires_grad_(False)


@pytest.fixture(scope="module")
def densenet() -> nn.Module:
    return frozen(torchvision.models.densenet121(num_classes=10)).double()


def images(count: int = 2) -> Tensor:
    return structured_images(count, SIZE, torch.Generator().manual_seed(1)).double()


def split_by_graph(densenet: nn.Module) -> SplitNetwork:
    split = split_network(densenet, LAYER, SIZE)
    assert isinstance(split, GraphSplit)
    return split


def split_by_hooks(densenet: nn.Module) -> SplitNetwork:
    split = split_network(Untraceable(densenet).eval(), f"inner.{LAYER}", SIZE)
    assert isinstance(split, HookSplit)
    return split


def attribution(split: SplitNetwork, x: Tensor, method: str, utility: str) -> Tensor:
    questions = [Question(n, METHODS[method], UTILITIES[utility], CLASS) for n in range(len(x))]
    return torch.stack([found.attribution for found in explain(split, x, questions, metrics=False).explanations])


def by_hand(densenet: nn.Module, x: Tensor, *, rectify: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, gradient of the utility `rest` and the Hessian times the activations, in plain PyTorch."""
    with torch.no_grad():
        features = densenet.features(x)
    activations = (functional.relu(features) if rectify else features).requires_grad_()
    maps = activations if rectify else functional.relu(activations)
    logits = densenet.classifier(functional.adaptive_avg_pool2d(maps, (1, 1)).flatten(1))
    utility = logits[:, CLASS] + functional.log_softmax(logits, dim=1)[:, CLASS]
    (gradients,) = torch.autograd.grad(utility.sum(), activations, create_graph=True)
    (hvp,) = torch.autograd.grad(gradients, activations, activations.detach())
    return activations.detach(), gradients.detach(), hvp


def expected_of(method: str, activations: Tensor, gradients: Tensor, hvp: Tensor) -> Tensor:
    weights = gradients if method == "hirescam" else gradients.mean((2, 3), keepdim=True)
    if method == "shapleycam":
        weights = (gradients - hvp / 2).mean((2, 3), keepdim=True)
    return (weights * activations).sum(1)


def test_the_pooling_of_torchvisions_densenet_takes_what_the_relu_makes(densenet: nn.Module) -> None:
    assert infer_layers(densenet, SIZE)["pre_gap"] == LAYER
    split, before = split_by_graph(densenet), split_network(densenet, "features.norm5", SIZE)
    assert isinstance(split.structure, PooledLinearHead)
    assert split.structure.classifier is densenet.classifier
    activations, unrectified = split.trunk(images()).activations, before.trunk(images()).activations
    with torch.no_grad():
        torch.testing.assert_close(unrectified, densenet.features(images()))
    assert (unrectified < 0).any()
    torch.testing.assert_close(activations, unrectified.clamp_min(0), rtol=0, atol=0)


@pytest.mark.parametrize("split_up", [split_by_graph, split_by_hooks])
@pytest.mark.parametrize("method", ["gradcam", "hirescam", "shapleycam"])
def test_methods_equal_plain_pytorch(
    densenet: nn.Module, split_up: Callable[[nn.Module], SplitNetwork], method: str
) -> None:
    found = attribution(split_up(densenet), images(), method, "rest")
    torch.testing.assert_close(found, expected_of(method, *by_hand(densenet, images(), rectify=True)))


@pytest.mark.parametrize("split_up", [split_by_graph, split_by_hooks])
def test_cam_is_the_classifiers_row_times_the_rectified_maps(
    densenet: nn.Module, split_up: Callable[[nn.Module], SplitNetwork]
) -> None:
    with torch.no_grad():
        maps = functional.relu(densenet.features(images()))
    expected = (densenet.classifier.weight[CLASS][:, None, None] * maps).sum(1)
    torch.testing.assert_close(attribution(split_up(densenet), images(), "cam", "pre-softmax"), expected)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "shapleycam"])
def test_the_module_alone_is_still_what_comes_before_the_relu(densenet: nn.Module, method: str) -> None:
    split = split_network(densenet, "features.norm5", SIZE)
    expected = expected_of(method, *by_hand(densenet, images(), rectify=False))
    torch.testing.assert_close(attribution(split, images(), method, "rest"), expected)
    if method != "hirescam":  # position by position, gradient times activation is the same on either side
        assert not torch.allclose(expected, expected_of(method, *by_hand(densenet, images(), rectify=True)), rtol=0.01)


@pytest.mark.parametrize("engine", ["eager", "openvino"])
def test_every_trunk_ends_with_the_relu(engine: Engine) -> None:
    model = frozen(torchvision.models.densenet121(num_classes=10))
    split, x = split_network(model, LAYER, SIZE), images(3).float()
    assert isinstance(split, GraphSplit)
    with torch.no_grad():
        expected = functional.relu(model.features(x))
        (found,) = build_trunk(split.graph, engine, x)(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert accelerate(split, (engine, "eager"), x, "float32") == engine
    assert (split.trunk(x).activations >= 0).all()


def test_the_layers_before_and_after_the_relu_share_a_trunk(densenet: nn.Module) -> None:
    splits = [split_network(densenet, path, SIZE) for path in (LAYER, "features.norm5", "features.denseblock3")]
    shared = SharedTrunk(densenet, splits, images())
    assert shared.passes == 1
    for state, split in zip(shared.states(images()), splits, strict=True):
        torch.testing.assert_close(state.activations, split.trunk(images()).activations)


@pytest.mark.parametrize(
    ("layer", "same"), [("layer4.1.bn2+relu", None), ("layer4.1.bn1+relu", "layer4.1.relu"), ("bn1+relu", "relu")]
)
def test_a_relu_that_a_module_applies_counts_as_well(layer: str, same: str | None) -> None:
    """ResNet's `layer4.1.relu` runs twice and means its last run; `bn1+relu` means the first."""
    model = frozen(torchvision.models.resnet18(num_classes=10)).double()
    if same is None:  # the block's input is added in between
        with pytest.raises(LayerError, match=r"applies no ReLU to what 'layer4\.1\.bn2' returns"):
            split_network(model, layer, SIZE)
        return
    seen: list[Tensor] = []
    handle = model.get_submodule(same).register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    with torch.no_grad():
        model(images())
    handle.remove()
    torch.testing.assert_close(split_network(model, layer, SIZE).trunk(images()).activations, seen[0])


class LateRelu(nn.Module):
    """A convolution whose output is changed in place before a ReLU takes it, then pooled."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.fc, self.change = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 10), change

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.fc(functional.relu(self.change(maps)).mean((2, 3)))


@pytest.mark.parametrize("change", [lambda maps: maps.add_(1), lambda maps: -maps, functional.silu])
def test_only_a_relu_right_after_the_module_counts(change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(LayerError, match="there is no 'conv\\+relu': the network applies no ReLU to what 'conv' ret"):
        split_network(LateRelu(change).eval().requires_grad_(False), "conv+relu", SIZE)


@pytest.mark.parametrize(
    "rectify",
    [
        torch.relu,
        torch.relu_,
        lambda maps: maps.relu(),
        lambda maps: maps.relu_(),
        lambda maps: functional.relu(input=maps),
        nn.ReLU(),
        nn.ReLU(inplace=True),
    ],
)
@pytest.mark.parametrize("traceable", [True, False])
def test_a_relu_in_any_spelling(rectify: Callable[[Tensor], Tensor], traceable: bool) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.rectify = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 10), rectify

        def forward(self, x: Tensor) -> Tensor:
            if not traceable and x.sum() > 1e9:
                x = -x
            return self.fc(self.rectify(self.conv(x)).mean((2, 3)))

    model = Network().eval().requires_grad_(False).double()
    split = split_network(model, "conv+relu", SIZE)
    assert isinstance(split, GraphSplit) is traceable
    expected = model.conv(images()).clamp_min(0)
    torch.testing.assert_close(split.trunk(images()).activations, expected)
    torch.testing.assert_close(split.logits(images()), model(images()))
    gradcam = attribution(split, images(), "gradcam", "pre-softmax")
    torch.testing.assert_close(
        gradcam, (model.fc.weight[CLASS][:, None, None] * expected).sum(1) / expected[0, 0].numel()
    )


def test_timms_module_has_its_relu_in_it() -> None:
    model = frozen(timm.create_model("densenet121", num_classes=10))
    with pytest.raises(LayerError, match=r"applies no ReLU to what 'features\.norm5' returns"):
        split_network(model, "features.norm5+relu", SIZE)
    with pytest.raises(LayerError, match=r"no module 'features\.norm9'"):
        split_network(model, "features.norm9+relu", SIZE)
