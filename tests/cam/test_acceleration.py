"""A faster trunk is kept only where the explanations stay the same; the log says which one runs."""

import logging
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from app.cam import acceleration
from app.cam.acceleration import TOLERANCE, accelerate
from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.split import GraphSplit
from app.cam.splitting import split_network
from app.cam.trunks import Trunk
from app.cam.utilities import UTILITIES
from service_models import calibrate_random_weights, load_network, resolve
from service_models.calibration import structured_images
from testing.photographs import photographs

SIZE = (64, 64)
IMAGES = structured_images(3, SIZE, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return calibrate_random_weights(torchvision.models.resnet18(num_classes=10), 0, SIZE).requires_grad_(False)


@pytest.fixture
def split(network: nn.Module) -> GraphSplit:
    split = split_network(network, "layer4.1.conv2", SIZE)
    assert isinstance(split, GraphSplit)
    return split


def test_an_engine_that_agrees_is_kept(split: GraphSplit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert accelerate(split, ("openvino", "eager"), IMAGES, "float32") == "openvino"
    assert split.run_trunk is not split.graph
    assert "is run by openvino" in caplog.text


def raises(_images: Tensor) -> tuple[Tensor, ...]:
    raise RuntimeError("no such operation")


def bent(graph: nn.Module, by: float) -> Trunk:
    return lambda images: tuple(output * (1 + by * torch.linspace(0, 1, output.shape[-1])) for output in graph(images))


def not_a_number(graph: nn.Module) -> Trunk:
    return lambda images: tuple(output * torch.nan for output in graph(images))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _graph: raises, "no such operation"),
        (lambda graph: bent(graph, by=0.01), "attributions deviate"),
        (not_a_number, "attributions deviate"),
        (lambda graph: lambda images: graph(images[:1].expand_as(images)), "attributions deviate"),
    ],
    ids=["one that fails", "one that is wrong", "one that overflows", "one that mixes images"],
)
def test_any_other_is_not(
    split: GraphSplit,
    make: Callable[[nn.Module], Trunk],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(acceleration, "build_trunk", lambda graph, *_: make(graph))
    assert accelerate(split, ("openvino", "eager"), IMAGES, "float32") == "eager"
    assert split.run_trunk is split.graph
    assert words in caplog.text


def test_the_next_engine_has_its_turn(split: GraphSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    real = acceleration.build_trunk

    def build(graph: nn.Module, engine: str, *rest: object) -> Trunk:
        return raises if engine == "compile" else real(graph, engine, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(acceleration, "build_trunk", build)
    assert accelerate(split, ("compile", "openvino"), IMAGES, "float32") == "openvino"


def test_torch_compile_agrees_or_is_not_used(network: nn.Module) -> None:
    """It needs a C++ compiler, which not every machine has."""
    split = split_network(network, "layer1", SIZE)
    assert isinstance(split, GraphSplit)
    expected = [output.clone() for output in split.graph(IMAGES)]
    assert accelerate(split, ("compile", "eager"), IMAGES, "float32") in {"compile", "eager"}
    with torch.no_grad():
        for one, other in zip(split.run_trunk(IMAGES), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_less_than_float32_is_used_and_its_deviation_logged(
    split: GraphSplit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert accelerate(split, ("eager",), IMAGES, "bfloat16") == "eager"
    assert split.run_trunk is not split.graph
    assert "attributions deviate by" in caplog.text


@pytest.mark.parametrize("layer", ["pre_gap", "last_conv"])
def test_on_photographs_every_gradient_method_stays_within_a_thousandth(layer: str) -> None:
    """The embedded network; XGradCAM divides by sums near zero at `last_conv` and is judged by none."""
    network = load_network(resolve("tf_efficientnet_lite0"), torch.device("cpu"))
    images = photographs(network.preprocessing)[:3]
    split = split_network(network.model, network.layers[layer], network.preprocessing.input_size)
    assert isinstance(split, GraphSplit)
    names = [name for name, method in METHODS.items() if "gradients" in method.needs and name != "xgradcam"]
    questions = [Question(i, METHODS[m], UTILITIES["rest"]) for i in range(len(images)) for m in names]
    expected = explain(split, images, questions).explanations
    assert accelerate(split, ("openvino",), images, "float32") == "openvino"
    for one, other in zip(explain(split, images, questions).explanations, expected, strict=True):
        assert one.target_class == other.target_class
        deviation = (one.attribution - other.attribution).abs().max() / other.attribution.abs().max()
        assert deviation <= TOLERANCE, other.question.method.name
        assert one.metrics is not None
        assert other.metrics is not None
        assert one.metrics["adcc"] == pytest.approx(other.metrics["adcc"], abs=0.1)
