"""Ablation-CAM against `grad-cam`, and against an obvious loop over channels."""

import copy
from dataclasses import replace

import pytest
import pytorch_grad_cam
import torch
import torchvision
from torch import Tensor, nn

from app.cam.heads import HeadStructure
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from service_models import CATALOGUE, Network, calibrate_random_weights
from tests.cam.masking_peers import TARGETS, ablationcam, gradcam_attribution, without_channels
from tests.cam.one_image import EMBEDDED, SIZE, Case, attributions, close, explained, photograph

pytestmark = pytest.mark.usefixtures("one_thread")


def test_ablationcam_equals_a_loop_over_channels_through_the_whole_network(case: Case) -> None:
    ours = attributions(case.split(), case.image, "ablationcam", case.target)
    ablated = without_channels(case.model, case.layer, case.image, channels_last=case.channels_last)
    for name, attribution in ours.items():
        close(attribution, ablationcam(*ablated, UTILITIES[name], case.target), 1e-9)


@pytest.mark.parametrize("target", ["predicted", "least-likely"])
@pytest.mark.parametrize("utility", TARGETS)
@pytest.mark.parametrize("layer", ["layer2", "layer4"])
def test_ablationcam_equals_the_peers_times_the_utility_after_a_relu(
    resnet: nn.Module, images: Tensor, layer: str, utility: str, target: str
) -> None:
    """`grad-cam` divides by U, and sets a channel to zero only where the activations' minimum is zero."""
    split = split_network(resnet, layer, SIZE)
    ours = explained(split, images[2], "ablationcam", utility, target)
    goal = TARGETS[utility](ours.target_class)
    theirs = gradcam_attribution(pytorch_grad_cam.AblationCAM, resnet, layer, images[2], goal)
    # It scores in single precision, and differences of scores lose a few digits.
    close(ours.attribution, theirs * ours.utility_value, 1e-4)
    assert utility == "post-softmax" or target == "predicted" or ours.utility_value < 0


def test_ablationcam_of_a_photograph_equals_the_peers(embedded: Network) -> None:
    """Small and in single precision, since the package takes a whole pass for each of the 1,280 channels."""
    model = copy.deepcopy(embedded.model).float()
    image = photograph("chelsea", replace(embedded.preprocessing, input_size=SIZE, resize_size=96)).float()
    ours = explained(split_network(model, "bn2", SIZE), image, "ablationcam", "rest", "predicted")
    goal = TARGETS["rest"](ours.target_class)
    theirs = gradcam_attribution(pytorch_grad_cam.AblationCAM, model, "bn2", image, goal)
    close(ours.attribution, theirs * ours.utility_value, 1e-4)


def vgg16() -> nn.Module:
    """With a small classifier: the library's own has 120 million parameters."""
    with torch.device("meta"):
        model = torchvision.models.vgg16()
        model.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 32), nn.ReLU(inplace=True), nn.Linear(32, 10))
    return model.to_empty(device="cpu")


@pytest.fixture(scope="module", params=["resnet18", "efficientnet_b0", "mobilenet_v2", EMBEDDED, "vgg16"])
def catalogued(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """A network of the catalogue in double precision."""
    name = request.param
    if name == EMBEDDED:
        return name, request.getfixturevalue("embedded").model
    model = calibrate_random_weights(
        vgg16() if name == "vgg16" else getattr(torchvision.models, name)(num_classes=10), 0, SIZE
    )
    return name, model.double().requires_grad_(False)


@pytest.mark.parametrize("layer", ["pre_gap", "last_conv"])
def test_the_short_cut_of_ablationcam_equals_the_general_route(
    catalogued: tuple[str, nn.Module], layer: str, images: Tensor
) -> None:
    name, model = catalogued
    split = split_network(model, (CATALOGUE[name].layers or {})[layer], SIZE)
    assert split.structure.channelwise == (name != "vgg16")
    short = attributions(split, images[0], "ablationcam", 3)
    general = attributions(split.with_structure(HeadStructure()), images[0], "ablationcam", 3)

    state = split.trunk(images[:1])
    ablated = []
    with torch.no_grad():
        logits = split.head(state)
        for channel in range(state.activations.shape[1]):
            activations = state.activations.clone()
            activations[:, channel] = 0
            ablated.append(split.head(state.with_activations(activations)))
    for utility in UTILITIES.values():
        expected = ablationcam(state.activations[0], logits, torch.cat(ablated), utility, 3)
        close(short[utility.name], expected, 1e-8)
        close(general[utility.name], expected, 1e-8)
