"""Masking methods, smoothing and several layers against `grad-cam` and `torchcam`, and against obvious loops."""

import copy
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import pytorch_grad_cam
import timm
import torch
import torchvision
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.cam.chunks import images_at_once
from app.cam.engine import explain
from app.cam.game import Effort
from app.cam.methods import METHODS
from app.cam.metrics import compute_metrics
from app.cam.questions import Explanation, Question
from app.cam.split import SplitNetwork
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from app.imaging import normalise, render_view
from service_models import CATALOGUE, Network, Preprocessing, load_network, make_lively, resolve
from service_models.lively import structured_images
from tests.cam.masking_peers import (
    TARGETS,
    ablationcam,
    gradcam_attribution,
    gradcam_heatmap,
    min_max,
    normalised_then_upsampled,
    scorecam,
    seen_through_channels,
    smoothed_by_hand,
    torchcam_scorecam,
    upsampled_then_normalised,
    without_channels,
)

# Not square, so that rows and columns cannot pass for each other.
SIZE = (64, 96)
EMBEDDED = "tf_efficientnet_lite0"
SWIN = {"img_size": SIZE, "embed_dim": 16, "depths": (1, 1, 1, 2), "num_heads": (1, 2, 4, 8)}
LAYERS = {
    "resnet": ["layer2", "layer3.0.conv2", "layer4", "layer4.0.conv2"],
    "efficientnet": ["conv_head", "bn2"],
    "swin": ["norm", "layers.3.blocks.1.norm1"],
}
PEERS = {"gradcam": pytorch_grad_cam.GradCAM, "layercam": pytorch_grad_cam.LayerCAM}
# Methods without random draws, which have a meaning at every layer with every utility.
DRAWLESS = [name for name in METHODS if name not in {"cam", "randomcam", "shapley-sampling"}]


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Asserts equality in the max norm, relative to the largest entry."""
    assert found.shape == expected.shape
    scale = expected.abs().max()
    assert scale > 0
    difference = ((found - expected).abs().max() / scale).item()
    assert difference <= tolerance


def explained(
    splits: SplitNetwork | Sequence[SplitNetwork], image: Tensor, method: str, utility: str, target: Any, **options: Any
) -> Explanation:
    """Our explanation of one image, (3, height, width)."""
    question = Question(0, METHODS[method], UTILITIES[utility], target)
    return explain(splits, image[None], [question], **{"metrics": False} | options).explanations[0]


def attributions(split: SplitNetwork, image: Tensor, method: str, target: int) -> dict[str, Tensor]:
    """Ours of one image for every utility, which share what the method finds out."""
    questions = [Question(0, METHODS[method], utility, target) for utility in UTILITIES.values()]
    found = explain(split, image[None], questions, metrics=False).explanations
    return {one.question.utility.name: one.attribution for one in found}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Thousands of passes of a millisecond each lose more by waiting for threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """Small relatives of the paper's networks, in double precision, so that only definitions can differ."""
    models = {
        "resnet": timm.create_model("test_resnet", num_classes=10),
        "efficientnet": timm.create_model("test_efficientnet", num_classes=10),
        "swin": timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **SWIN),
    }
    return {name: make_lively(model, 0, SIZE).double().requires_grad_(False) for name, model in models.items()}


@pytest.fixture(scope="module")
def resnet(networks: dict[str, nn.Module]) -> nn.Module:
    return networks["resnet"]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return structured_images(3, SIZE, torch.Generator().manual_seed(3)).double()


@pytest.fixture(scope="module")
def embedded() -> Network:
    """Of photographs; in double precision, since rounding at the kinks of ReLU6 turns gradients on and off."""
    network = load_network(resolve(EMBEDDED, {}), torch.device("cpu"), None)
    network.model.double()
    return network


@pytest.fixture(scope="module")
def embedded_splits(embedded: Network) -> dict[str, SplitNetwork]:
    size = embedded.preprocessing.input_size
    return {path: split_network(embedded.model, path, size) for path in ("blocks.2", "blocks.4", "conv_head", "bn2")}


def photograph(name: str, preprocessing: Preprocessing) -> Tensor:
    view = render_view(Image.fromarray(getattr(data, name)()), preprocessing)
    return normalise(view[None], preprocessing, "cpu")[0].double()


def predicted(model: nn.Module, image: Tensor) -> int:
    with torch.no_grad():
        return int(model(image[None]).argmax())


class Case(NamedTuple):
    """A layer of a small network, and what is explained there."""

    model: nn.Module
    layer: str
    image: Tensor
    target: int
    channels_last: bool

    def split(self) -> SplitNetwork:
        return split_network(self.model, self.layer, SIZE)


@pytest.fixture(scope="module", params=[(name, layer) for name, layers in LAYERS.items() for layer in layers], ids=str)
def case(request: pytest.FixtureRequest, networks: dict[str, nn.Module], images: Tensor) -> Case:
    name, layer = request.param
    return Case(networks[name], layer, images[0], predicted(networks[name], images[0]), name == "swin")


@pytest.fixture(scope="module")
def flat() -> nn.Module:
    """A network whose layers keep the input's resolution, where no mask is interpolated."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
    )
    return make_lively(model, 0, (16, 24)).double().requires_grad_(False)


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
    make_lively(model, 0, size).requires_grad_(False)
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


class Largest(TorchFunctionMode):
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
    with Largest() as largest:
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
    model = make_lively(vgg16() if name == "vgg16" else getattr(torchvision.models, name)(num_classes=10), 0, SIZE)
    return name, model.double().requires_grad_(False)


@pytest.mark.parametrize("layer", ["pre_gap", "last_conv"])
def test_the_short_cut_of_ablationcam_equals_the_general_route(
    catalogued: tuple[str, nn.Module], layer: str, images: Tensor
) -> None:
    name, model = catalogued
    split = split_network(model, (CATALOGUE[name].layers or {})[layer], SIZE)
    assert split.channelwise == (name != "vgg16")
    short = attributions(split, images[0], "ablationcam", 3)
    split.channelwise = False
    general = attributions(split, images[0], "ablationcam", 3)

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


@pytest.mark.parametrize(("method", "utility"), [("gradcam", "rest"), ("layercam", "pre-softmax")])
@pytest.mark.parametrize(
    ("paths", "tolerance"),
    [(["conv_head", "bn2"], 1e-3), (["blocks.2", "blocks.4", "bn2"], 5e-2)],
    ids=["two", "three"],
)
def test_the_heatmap_of_several_layers_equals_the_peers(
    embedded: Network,
    embedded_splits: dict[str, SplitNetwork],
    paths: list[str],
    tolerance: float,
    method: str,
    utility: str,
) -> None:
    """The package does not normalise a layer's heatmap again after upsampling, which lowers its peak.

    By 1% on the last grid, 7 x 7, which moves the mean of two layers of that grid by less than 1e-3, and by up to
    12% on a grid of 28 x 28 with narrow peaks. With that step added, the two agree to rounding.
    """
    image = photograph("chelsea", embedded.preprocessing)
    ours = explained([embedded_splits[path] for path in paths], image, method, utility, "predicted")
    theirs = gradcam_heatmap(PEERS[method], embedded.model, paths, image, TARGETS[utility](ours.target_class))
    assert (ours.heatmap - theirs.heatmap).abs().max() <= tolerance
    again = torch.stack([min_max(heatmap) for heatmap in theirs.of_layers]).mean(dim=0)
    assert (ours.heatmap - min_max(again)).abs().max() <= 1e-5


def test_several_layers_are_explained_as_each_alone(resnet: nn.Module, images: Tensor) -> None:
    splits = [split_network(resnet, layer, SIZE) for layer in ("layer2", "layer4", "layer3.0.conv2")]
    for method in ("scorecam", "ablationcam", "shapleycam"):
        found = explained(splits, images[0], method, "rest", "predicted")
        alone = [explained(split, images[0], method, "rest", "predicted") for split in splits]
        for layer, one in zip(found.layers, alone, strict=True):
            close(layer.attribution, one.attribution, 1e-9)
            assert layer.available == one.available
        assert found.forward_passes == sum(one.forward_passes for one in alone)
        norms = torch.tensor([one.hvp_norm or 0.0 for one in alone], dtype=torch.float64)
        assert (found.hvp_norm or 0.0) == pytest.approx(norms.norm().item(), rel=1e-9)
        close(found.heatmap, min_max(torch.stack([one.heatmap for one in alone]).mean(dim=0)), 1e-9)


@pytest.mark.parametrize(
    ("path", "method", "utility"), [("bn2", "gradcam", "rest"), ("blocks.4", "layercam", "pre-softmax")]
)
def test_flip_scale_equals_the_peers_smoothing_by_augmentation(
    embedded: Network, embedded_splits: dict[str, SplitNetwork], path: str, method: str, utility: str
) -> None:
    """The same six views; the package does not normalise their mean, which then does not reach 1."""
    image = photograph("coffee", embedded.preprocessing)
    split = embedded_splits[path]
    ours = explained(split, image, method, utility, "predicted", smooth="flip-scale")
    theirs = gradcam_heatmap(
        PEERS[method], embedded.model, [path], image, TARGETS[utility](ours.target_class), aug_smooth=True
    )
    assert (ours.heatmap - min_max(theirs.heatmap)).abs().max() <= 1e-5
    plain = explained(split, image, method, utility, "predicted")
    assert (ours.heatmap - plain.heatmap).abs().max() > 1e-2


@pytest.mark.parametrize(("layer", "smooth"), [("layer3.0.conv2", "flip"), ("layer4", "flip-scale")])
def test_smoothing_is_the_mean_over_views_mirrored_back(
    resnet: nn.Module, images: Tensor, layer: str, smooth: Any
) -> None:
    """Methods, images and utilities differ inside the batch."""
    split = split_network(resnet, layer, SIZE)
    asked = [(n % 3, name, list(UTILITIES)[n % 4]) for n, name in enumerate([*DRAWLESS, "randomcam"])]
    classes = [predicted(resnet, image) for image in images]
    questions = [Question(n, METHODS[name], UTILITIES[utility], classes[n], seed=5) for n, name, utility in asked]
    found = explain(split, images, questions, metrics=False, smooth=smooth).explanations
    for one, question in zip(found, questions, strict=True):
        attribution, heatmap, alone = smoothed_by_hand(split, images[question.image], question, smooth)
        # XGrad-CAM divides by channel sums near zero.
        tolerance = 1e-5 if question.method.name == "xgradcam" else 1e-8
        close(one.attribution, attribution, tolerance)
        assert (one.heatmap - heatmap).abs().max() <= tolerance
        assert one.forward_passes == sum(view.forward_passes for view in alone)
        assert one.utility_value == pytest.approx(alone[0].utility_value)
        assert one.hvp_norm == (None if alone[0].hvp_norm is None else pytest.approx(alone[0].hvp_norm))
        if one.available is not None:
            assert one.available == pytest.approx(sum(view.available or 0.0 for view in alone) / len(alone))


def test_errors_of_sampled_views_add_up_as_those_of_independent_draws(resnet: nn.Module, images: Tensor) -> None:
    split = split_network(resnet, "layer3", SIZE)
    question = Question(0, METHODS["shapley-sampling"], UTILITIES["rest"], 4, seed=6, effort=Effort(permutations=8))
    (found,) = explain(split, images[:1], [question], metrics=False, smooth="flip").explanations
    # Views draw apart: the same draws would err alike.
    itself, mirrored = (
        explain(split, view[None], [replace(question, seed=6 ^ n)], metrics=False).explanations[0].layers[0]
        for n, view in enumerate((images[0], images[0].flip(2)))
    )
    close(found.attribution, (itself.attribution + mirrored.attribution.flip(1)) / 2, 1e-9)
    errors = found.layers[0].standard_error, itself.standard_error, mirrored.standard_error
    assert all(error is not None for error in errors)
    close(errors[0], (errors[1] ** 2 + errors[2].flip(1) ** 2).sqrt() / 2, 1e-9)


def symmetric_network(asymmetry: float) -> nn.Module:
    """Gives an image and its mirror image the same logits, but for the asymmetry of its kernels."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(8, 12, 3, padding=1), nn.SiLU()),
        *(nn.Conv2d(12, 8, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    make_lively(model, 0, SIZE).double().requires_grad_(False)
    for module in model:
        if isinstance(module, nn.Conv2d):
            module.weight += (asymmetry - 1) / 2 * (module.weight - module.weight.flip(3))
    return model


@pytest.mark.parametrize("asymmetry", [0.0, 0.5])
def test_flip_changes_nothing_only_where_the_network_is_its_own_mirror_image(asymmetry: float, images: Tensor) -> None:
    split = split_network(symmetric_network(asymmetry), "3", SIZE)
    # Fake-CAM marks the first position, whatever the network.
    for method in [name for name in DRAWLESS if name != "fakecam"]:
        plain = explained(split, images[1], method, "rest", 2)
        flipped = explained(split, images[1], method, "rest", 2, smooth="flip")
        difference = (flipped.attribution - plain.attribution).abs().max() / plain.attribution.abs().max()
        if asymmetry:
            assert difference > 1e-3, method
        else:
            close(flipped.attribution, plain.attribution, 1e-6 if method == "xgradcam" else 1e-9)
            close(flipped.heatmap, plain.heatmap, 1e-6)


def test_all_views_explain_the_class_of_the_image_itself(resnet: nn.Module) -> None:
    split = split_network(resnet, "layer3.0.conv2", SIZE)
    candidates = structured_images(64, SIZE, torch.Generator().manual_seed(8)).double()
    with torch.no_grad():
        logits, mirrored = resnet(candidates), resnet(candidates.flip(3))
    torn = (logits.argmax(dim=1) != mirrored.argmax(dim=1)).nonzero()[:3, 0]
    assert len(torn) == 3
    questions = [Question(n, METHODS["gradcam"], UTILITIES["rest"]) for n in range(3)]
    found = explain(split, candidates[torn], questions, metrics=False, smooth="flip-scale")
    torch.testing.assert_close(found.logits, logits[torn])
    for one, image in zip(found.explanations, torn, strict=True):
        target = int(logits[image].argmax())
        assert one.target_class == target
        question = replace(one.question, target=target)
        close(one.attribution, smoothed_by_hand(split, candidates[image], question, "flip-scale")[0], 1e-9)


@pytest.mark.parametrize("method", ["scorecam", "ablationcam", "shapleycam"])
def test_figures_of_a_smoothed_explanation_of_two_layers_equal_those_of_separate_passes(
    resnet: nn.Module, images: Tensor, method: str
) -> None:
    splits = [split_network(resnet, layer, SIZE) for layer in ("layer4", "layer3.0.conv2")]
    found = explained(splits, images[0], method, "rest", 4, metrics=True, smooth="flip")
    shown, hidden = images[0] * found.heatmap, images[0] * (1 - found.heatmap)
    with torch.no_grad():
        scores = [resnet(x[None]).log_softmax(dim=1)[:, 4] for x in (images[0], shown, hidden)]
    question = Question(0, METHODS[method], UTILITIES["rest"], 4)
    again = min_max(torch.stack([smoothed_by_hand(split, shown, question, "flip")[1] for split in splits]).mean(dim=0))
    expected = compute_metrics(*scores, found.heatmap[None], again[None])
    assert found.metrics is not None
    for name, value in found.metrics.items():
        assert value == pytest.approx(getattr(expected, name).item(), rel=1e-5), name
