"""Several layers of a network share one pass of the images."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.sharing import SharedTrunk
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from service_models import calibrate_random_weights
from service_models.calibration import structured_images

SIZE = (64, 64)
SWIN = {"img_size": SIZE, "embed_dim": 16, "depths": (1, 1, 1, 2), "num_heads": (1, 2, 4, 8)}
# Later layers first: the order in which they are asked for does not matter.
NETWORKS = {
    "resnet, with a skip connection": (
        lambda: torchvision.models.resnet18(num_classes=10),
        ("layer4", "layer4.1.conv2"),
    ),
    "vgg, whose ReLU works in place": (
        lambda: torchvision.models.vgg11(num_classes=10),
        ("features.20", "features.18"),
    ),
    "efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=10), ("bn2", "conv_head")),
    "swin": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **SWIN),
        ("norm", "layers.3.blocks.1.norm1", "layers.2"),
    ),
}


def images(count: int) -> Tensor:
    return structured_images(count, SIZE, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_states_and_explanations_are_those_of_each_layers_own_trunk(name: str) -> None:
    build, layers = NETWORKS[name]
    model: nn.Module = calibrate_random_weights(build(), 0, SIZE).requires_grad_(False)
    splits = [split_network(model, layer, SIZE) for layer in layers]
    shared = SharedTrunk(model, splits, images(2))
    x = images(3)
    runs = []
    for split in splits:
        own = split.run_trunk  # type: ignore[attr-defined]
        split.run_trunk = lambda batch, own=own, split=split: runs.append(split.layer) or own(batch)  # type: ignore[attr-defined]
    states = shared.states(x)
    assert runs == [min(layers, key=lambda layer: len(splits[layers.index(layer)].graph.graph.nodes))]  # type: ignore[attr-defined]
    assert shared.passes == 1
    for split, state in zip(splits, states, strict=True):
        expected = split.trunk(x)
        for one, other in zip((state.activations, *state.carry), (expected.activations, *expected.carry), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        questions = [Question(number, METHODS["shapleycam"], UTILITIES["rest"]) for number in range(3)]
        found, wanted = explain(split, x, questions, states=[state]), explain(split, x, questions)
        for one, other in zip(found.explanations, wanted.explanations, strict=True):
            scale = float(other.attribution.abs().max())
            torch.testing.assert_close(one.attribution, other.attribution, rtol=0, atol=1e-3 * scale)


def test_layers_that_do_not_follow_each_other_have_their_own_passes() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc((self.one(x).relu() * self.other(x).relu()).mean(dim=(2, 3)))

    torch.manual_seed(0)
    model = Branches().eval().requires_grad_(False)
    splits = [split_network(model, layer, SIZE) for layer in ("one", "other")]
    shared = SharedTrunk(model, splits, images(2))
    x = images(3)
    for split, state in zip(splits, shared.states(x), strict=True):
        torch.testing.assert_close(split.head(state), model(x), rtol=1e-4, atol=1e-5)
