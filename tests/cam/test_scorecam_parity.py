"""Score-CAM against `grad-cam` and `torchcam`, and against an obvious loop over channels."""

import weakref
from functools import partial
from typing import Any

import pytest
import pytorch_grad_cam
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.cam.chunks import images_at_once
from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from service_models import calibrate_random_weights
from service_models.calibration import structured_images
from tests.cam.masking_peers import (
    TARGETS,
    gradcam_attribution,
    normalised_then_upsampled,
    scorecam,
    seen_through_channels,
    torchcam_scorecam,
    upsampled_then_normalised,
)
from tests.cam.one_image import SIZE, Case, attributions, close, explained, predicted

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def flat() -> nn.Module:
    """A network whose layers keep the input's resolution, where no mask is interpolated."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
    )
    return calibrate_random_weights(model, 0, (16, 24)).double().requires_grad_(False)


@pytest.mark.parametrize("target", [0, 3])
@pytest.mark.parametrize("utility", TARGETS)
@pytest.mark.parametrize("layer", ["2", "3"])
def test_scorecam_equals_both_peers_where_the_grid_is_the_inputs(
    flat: nn.Module, layer: str, utility: str, target: int
) -> None:
    image = structured_images(1, (16, 24), torch.Generator().manual_seed(1))[0].double()
    ours = explained(split_network(flat, layer, (16, 24)), image, "scorecam", utility, target).attribution
    # The packages guard the division with 1e-8, we with 1e-7; `grad-cam` scores in single precision.
    theirs = gradcam_attribution(pytorch_grad_cam.ScoreCAM, flat, layer, image, TARGETS[utility](target))
    close(ours, theirs, 1e-6)
    close(ours.relu(), torchcam_scorecam(flat, layer, image, TARGETS[utility](target)), 1e-6)


def test_scorecam_equals_a_loop_over_channels(case: Case) -> None:
    ours = attributions(case.split(), case.image, "scorecam", case.target)
    seen = seen_through_channels(
        case.model, case.layer, case.image, upsampled_then_normalised, channels_last=case.channels_last
    )
    for name, attribution in ours.items():
        close(attribution, scorecam(*seen, UTILITIES[name], case.target), 1e-9)
        # The scores matter: without them all channels would weigh the same.
        assert (attribution - seen[0].mean(dim=0)).abs().max() > 1e-3 * attribution.abs().max()


@pytest.mark.parametrize("utility", ["pre-softmax", "rest"])
@pytest.mark.parametrize("layer", ["layer2", "layer3.0.conv2"])
def test_the_peers_scorecam_differs_from_ours_by_how_masks_are_enlarged_and_by_nothing_else(
    resnet: nn.Module, images: Tensor, layer: str, utility: str
) -> None:
    """`grad-cam` aligns corners; `torchcam` normalises before it upsamples. Given that, the loop equals them."""
    image, target = images[1], predicted(resnet, images[1])
    ours = explained(split_network(resnet, layer, SIZE), image, "scorecam", utility, target).attribution

    theirs = gradcam_attribution(pytorch_grad_cam.ScoreCAM, resnet, layer, image, TARGETS[utility](target))
    aligned = seen_through_channels(resnet, layer, image, partial(upsampled_then_normalised, align_corners=True))
    close(scorecam(*aligned, UTILITIES[utility], target), theirs, 1e-5)
    assert (ours - theirs).abs().max() > 1e-3 * theirs.abs().max()

    theirs = torchcam_scorecam(resnet, layer, image, TARGETS[utility](target))
    normalised_first = seen_through_channels(resnet, layer, image, normalised_then_upsampled)
    close(scorecam(*normalised_first, UTILITIES[utility], target).relu(), theirs, 1e-6)
    assert (ours.relu() - theirs).abs().max() > 1e-4 * theirs.abs().max()


def with_constant_channels(constant: int, biases: Tensor, size: tuple[int, int]) -> nn.Module:
    """40 channels of which some are the same everywhere, at places that follow no order; single precision."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 40, 8, stride=8), nn.ReLU(), nn.Conv2d(40, 16, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    )
    calibrate_random_weights(model, 0, size).requires_grad_(False)
    chosen = torch.randperm(40, generator=torch.Generator().manual_seed(2))[:constant]
    model[0].weight[chosen] = 0
    model[0].bias[chosen] = biases[:constant]
    return model


@pytest.mark.parametrize("biases", [torch.zeros(40), torch.linspace(-2.7, 3.1, 40)], ids=["dead", "biased"])
@pytest.mark.parametrize("constant", [0, 1, 30, 39])
def test_constant_channels_share_one_pass_and_change_no_score(constant: int, biases: Tensor) -> None:
    assert_equals_loop_with_constant_channels(constant, biases, SIZE)


def test_constant_channels_mask_everything_where_upsampling_rounds() -> None:
    """Small outputs take a path of their own on the CPU, which gives constants back but for rounding."""
    assert_equals_loop_with_constant_channels(30, torch.linspace(3.1, -2.7, 40), (48, 64))


def assert_equals_loop_with_constant_channels(constant: int, biases: Tensor, size: tuple[int, int]) -> None:
    model = with_constant_channels(constant, biases, size)
    image = structured_images(1, size, torch.Generator().manual_seed(4))[0]
    split = split_network(model, "0", size)
    seen = seen_through_channels(model, "0", image, upsampled_then_normalised)
    for utility in ("rest", "pre-softmax"):
        found = explained(split, image, "scorecam", utility, 2)
        close(found.attribution, scorecam(*seen, UTILITIES[utility], 2), 2e-5)
        assert found.forward_passes == 1 + (40 - constant) + (constant > 0)


class LargestTensor(TorchFunctionMode):
    """Notes the most planes of the input's size that one operation returns."""

    planes = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and tuple(output.shape[-2:]) == SIZE:
            self.planes = max(self.planes, output.shape[:-2].numel())
        return output


def test_masked_images_are_made_chunk_by_chunk_and_all_passes_are_counted(
    resnet: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = split_network(resnet, "layer3", SIZE)
    passes: list[int] = []
    masked: list[weakref.ref[Tensor]] = []
    trunk = split.trunk

    def watched(batch: Tensor):
        assert all(earlier() is None for earlier in masked[1:]), "an earlier chunk is still alive"
        passes.append(len(batch))
        masked.append(weakref.ref(batch))
        return trunk(batch)

    monkeypatch.setattr(split, "trunk", watched)
    questions = [
        Question(0, METHODS["scorecam"], utility, target) for utility in UTILITIES.values() for target in (1, 2)
    ]
    with LargestTensor() as largest:
        found = explain(split, images[:1], questions, metrics=False).explanations
    at_once = images_at_once(images)
    assert max(passes) == at_once
    activations = trunk(images[:1]).activations.flatten(2)
    constant = int((activations.amax(dim=2) == activations.amin(dim=2)).sum())
    assert constant > 1
    # All utilities and targets share the passes.
    assert sum(passes) == 1 + activations.shape[1] - constant + 1
    assert {e.forward_passes for e in found} == {sum(passes)}
    assert largest.planes == 3 * at_once


def test_scorecam_of_a_batch_equals_that_of_its_images_one_by_one_figures_included(
    resnet: nn.Module, images: Tensor
) -> None:
    split = split_network(resnet, "layer3.0.conv2", SIZE)
    asked = [(n % 3, utility, target) for n, utility in enumerate(UTILITIES) for target in ("predicted", 7)]
    questions = [Question(n, METHODS["scorecam"], UTILITIES[utility], target) for n, utility, target in asked]
    together = explain(split, images, questions).explanations
    for found, (n, utility, target) in zip(together, asked, strict=True):
        alone = explained(split, images[n], "scorecam", utility, target, metrics=True)
        close(found.attribution, alone.attribution, 1e-9)
        assert found.metrics == pytest.approx(alone.metrics, rel=1e-6)
        assert found.forward_passes == alone.forward_passes
