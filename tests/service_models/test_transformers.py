"""Networks of the library transformers: their views, logits and attributions equal the library's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from testing.pictures import photograph
from tests.service_models.hugging_face import (
    ARCHITECTURES,
    LABELS,
    SIDE,
    input_of,
    load,
    own_model,
    own_pixels,
    view_of,
)

# Whose processor stretches before it crops: the service shows square pictures alone in the same way.
_SQUARE = {"DeiT"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_view_and_logits_equal_those_of_the_library(hf: Any, saved: Path, name: str) -> None:
    network, picture = load(saved / name), photograph("coffee")
    if name in _SQUARE:
        picture = picture.crop((50, 0, 450, 400))
    expected = own_pixels(hf, saved / name, picture)
    images = input_of(network.preprocessing, picture)
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        logits = own_model(hf, saved / name)(expected).logits
        torch.testing.assert_close(network.model(images), logits, rtol=1e-5, atol=1e-5)
    assert logits.std() > 0.05


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_labels_layers_and_weights_are_found(hf: Any, saved: Path, name: str) -> None:
    del hf
    network = load(saved / name)
    assert network.labels == LABELS
    assert dict(network.layers) == ARCHITECTURES[name][2]
    assert network.weights == f"file/{name}"
    assert network.scores.name == "softmax"


def _attribution(model: nn.Module, path: str, image: Tensor, method: str) -> Tensor:
    """Of class 2 with `rest`, by a hook and autograd on the library's own model: (grid height, grid width)."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    handle = model.get_submodule(path).register_forward_hook(keep)
    logits = model(image).logits
    handle.remove()
    value = (logits + logits.log_softmax(1))[0, 2]
    (gradient,) = torch.autograd.grad(value, seen[-1], create_graph=method == "shapleycam")
    activations = seen[-1].detach()
    weights = gradient.detach()
    if method == "shapleycam":
        # The class token is no player.
        players = activations.clone()
        players[:, : _prefix(players, path)] = 0
        (product,) = torch.autograd.grad((gradient * players).sum(), seen[-1])
        weights = weights - product / 2
    by_channel = [_positions(tensor, path)[0] for tensor in (activations, weights)]
    if method != "hirescam":
        by_channel[1] = by_channel[1].mean(dim=0, keepdim=True)
    total = (by_channel[0] * by_channel[1]).sum(dim=-1)
    side = round(total.numel() ** 0.5)
    return total.reshape(side, side)


def _positions(tensor: Tensor, path: str) -> Tensor:
    """(1, positions, channels), without what comes before the patches."""
    if tensor.ndim == 4:
        is_last = path.startswith("convnext") and path.endswith("layernorm")
        return tensor.flatten(1, 2) if is_last else tensor.flatten(2).transpose(1, 2)
    return tensor[:, _prefix(tensor, path) :]


def _prefix(tensor: Tensor, path: str) -> int:
    """How many tokens come before the patches."""
    return {"vit": 1, "deit": 2, "dinov2": 1}.get(path.partition(".")[0], 0) if tensor.ndim == 3 else 0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attributions_equal_those_of_plain_autograd_on_the_librarys_model(hf: Any, saved: Path, name: str) -> None:
    network = load(saved / name)
    plain = own_model(hf, saved / name).double()
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for path in network.layers.values():
        split = split_network(network.model.double(), path, (SIDE, SIDE))
        questions = [
            Question(0, METHODS[method], UTILITIES["rest"], 2) for method in ("gradcam", "hirescam", "shapleycam")
        ]
        for question, found in zip(
            questions, explain(split, image, questions, metrics=False).explanations, strict=True
        ):
            # Fused attention has no second derivative; the library's own in steps rounds to single precision.
            with sdpa_kernel(SDPBackend.MATH):
                expected = _attribution(plain, path, image, question.method.name)
            torch.testing.assert_close(found.attribution, expected, rtol=1e-6, atol=1e-9)
            assert expected.abs().max() > 1e-6
        assert found.hvp_norm is not None
        assert found.hvp_norm > 1e-6


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("ViTImageProcessor", {"size": {"height": 48, "width": 80}}),
        ("ViTImageProcessor", {"size": SIDE, "do_rescale": False}),
        ("ViTImageProcessor", {"size": SIDE, "do_normalize": False, "resample": 1}),
        ("ViTImageProcessor", {"size": SIDE, "rescale_factor": 1 / 127.5, "resample": 0}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 48}}),
        ("SiglipImageProcessor", {"size": {"height": SIDE, "width": SIDE}}),
        ("BeitImageProcessor", {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False}),
        ("MobileNetV2ImageProcessor", {"size": {"shortest_edge": 80}, "crop_size": SIDE}),
        ("LevitImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_size": SIDE}),
        ("PoolFormerImageProcessor", {"size": {"shortest_edge": 58}, "crop_size": 56}),
        ("EfficientNetImageProcessor", {"size": {"height": SIDE, "width": SIDE}}),
        ("EfficientNetImageProcessor", {"size": {"height": SIDE, "width": SIDE}, "rescale_offset": True,
                                        "rescale_factor": 1 / 127.5, "include_top": False}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 48}, "crop_pct": 0.75}),
    ],
)  # fmt: skip
def test_views_of_image_processors_equal_theirs(hf: Any, folder: Path, kind: str, fields: dict[str, Any]) -> None:
    getattr(hf, kind)(**fields).save_pretrained(folder)
    picture = photograph("coffee")
    found = input_of(view_of(folder), picture)
    torch.testing.assert_close(found, own_pixels(hf, folder, picture), rtol=1e-5, atol=1e-5)


def test_a_file_of_an_older_library_has_its_defaults(hf: Any, folder: Path) -> None:
    """As the first vision transformers on the hub have it."""
    del hf
    content = {
        "feature_extractor_type": "ViTFeatureExtractor", "do_normalize": True, "do_resize": True, "size": SIDE,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    view = load(folder).preprocessing
    assert (view.input_size, view.fit, view.interpolation) == ((SIDE, SIDE), "stretch", "bilinear")
    assert (view.mean, view.std) == ((0.5,) * 3, (0.5,) * 3)


def test_a_stretch_before_the_crop_is_told(hf: Any, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    del hf
    load(saved / "DeiT")
    assert "stretches pictures to 72 x 72 px before it cuts the centre out" in caplog.text
