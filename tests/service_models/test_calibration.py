"""Random parameters must behave like trained ones, and be the same for the same seed."""

import pytest
import torch
from skimage import data
from torch import Tensor, nn
from torchvision.transforms import v2

from service_models import CATALOGUE, calibrate_random_weights
from service_models.calibration import structured_images
from service_models.libraries import build

VIEW = v2.Compose(
    [
        v2.ToImage(),
        v2.Resize(256),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)
NETWORKS = [
    "resnet18",
    "resnet50",
    "vgg16",
    "mobilenet_v2",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
]


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    pictures = [data.chelsea(), data.coffee(), data.astronaut(), data.rocket()]
    return torch.stack([VIEW(picture) for picture in pictures])


@pytest.fixture(scope="module", params=NETWORKS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return calibrate_random_weights(build(CATALOGUE[request.param]), 0, (224, 224)).requires_grad_(requires_grad=False)


def test_logits_of_photographs_deviate_by_one_to_four(model: nn.Module, photographs: Tensor) -> None:
    with torch.no_grad():
        deviation = model(photographs).std(dim=1)

    assert deviation.min() > 1
    assert deviation.max() < 4


def test_logits_depend_on_the_photograph(model: nn.Module, photographs: Tensor) -> None:
    with torch.no_grad():
        logits = model(photographs)

    assert (logits - logits.mean(0)).std(dim=1).min() > 0.3


def test_the_log_probability_curves_along_the_image(model: nn.Module, photographs: Tensor) -> None:
    image = photographs[:1].clone().requires_grad_()
    target = int(model(image).argmax())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        utility = model(image).log_softmax(dim=1)[0, target]
        gradient = torch.autograd.grad(utility, image, create_graph=True)[0]
        hvp = torch.autograd.grad((gradient * image.detach()).sum(), image)[0]

    assert gradient.norm() > 1e-3
    assert hvp.norm() > 1e-3


def test_a_seed_gives_the_same_parameters_whatever_they_were() -> None:
    spec = CATALOGUE["mobilenet_v2"]
    fresh, used = build(spec), build(spec)
    with torch.no_grad():
        for parameter in used.parameters():
            parameter.add_(1)

    once = calibrate_random_weights(fresh, 3, (96, 96)).state_dict()
    again = calibrate_random_weights(used, 3, (96, 96)).state_dict()
    other = calibrate_random_weights(build(spec), 4, (96, 96)).state_dict()

    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["classifier.1.weight"], other["classifier.1.weight"])


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    calibrate_random_weights(build(CATALOGUE["mobilenet_v2"]), 0, (64, 64))

    assert torch.equal(torch.rand(3), expected)


def test_no_hooks_stay_behind() -> None:
    model = calibrate_random_weights(build(CATALOGUE["resnet18"]), 0, (64, 64))

    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("input_size", [(64, 64), (96, 128), (33, 224)])
def test_structured_images_have_the_range_of_normalised_photographs(input_size: tuple[int, int]) -> None:
    pictures = structured_images(3, input_size, torch.Generator().manual_seed(0))

    assert pictures.shape == (3, 3, *input_size)
    assert pictures.min() >= -2.2
    assert pictures.max() <= 2.6
    assert 0.5 < pictures.std() < 1.5
