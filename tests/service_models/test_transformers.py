"""Networks of the library transformers: what their folders say, and that the library itself computes the same."""

import importlib
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.splitting import split_network
from app.cam.utilities import UTILITIES
from app.imaging.tensors import normalise
from app.imaging.view import render_view
from service_models import load_network
from service_models.config import read_config
from service_models.errors import NetworkError
from service_models.hugging_face_files import with_what_its_files_say
from service_models.spec import Network, NetworkSpec, Preprocessing
from testing.mirror import Mirror
from testing.pictures import photograph

CPU = torch.device("cpu")
SIDE = 64
LABELS = ("cat", "dog", "newt", "owl", "yak")
_TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
_PATCHES = {"image_size": SIDE, "patch_size": 8}
_STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 2]}
# Of each architecture: its configuration, its image processor as it is used with it, and the layers that are found.
ARCHITECTURES: dict[str, tuple[dict[str, Any], tuple[str, dict[str, Any]], dict[str, str]]] = {
    "ViT": (
        _TRANSFORMER | _PATCHES,
        ("ViTImageProcessor", {"size": {"height": SIDE, "width": SIDE}}),
        {"last_norm": "vit.layers.2.layernorm_before"},
    ),
    "DeiT": (
        _TRANSFORMER | _PATCHES,
        ("DeiTImageProcessor", {"size": {"height": 72, "width": 72}, "crop_size": SIDE}),
        {"last_norm": "deit.layers.2.layernorm_before"},
    ),
    "Swin": (
        {"image_size": SIDE, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        ("ViTImageProcessor", {"size": SIDE, "resample": 3}),
        {"pre_gap": "swin.layernorm", "last_norm": "swin.encoder.layers.1.blocks.1.layernorm_after"},
    ),
    "ConvNext": (
        _STAGES,
        ("ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}}),
        {
            "pre_gap": "convnext.encoder.stages.3",
            "last_conv": "convnext.encoder.stages.3.layers.1.dwconv",
            "last_norm": "convnext.encoder.stages.3.layers.1.layernorm",
        },
    ),
    "ResNet": (
        _STAGES | {"embedding_size": 8, "layer_type": "basic"},
        ("ConvNextImageProcessor", {"size": {"shortest_edge": SIDE}, "resample": 2}),
        {"pre_gap": "resnet.encoder.stages.3", "last_conv": "resnet.encoder.stages.3.layers.1.layer.1.convolution"},
    ),
    "Dinov2": (
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2} | _PATCHES,
        ("BitImageProcessor", {"size": {"shortest_edge": 72}, "crop_size": SIDE}),
        {"pre_gap": "dinov2.layernorm", "last_norm": "dinov2.encoder.layer.2.norm2"},
    ),
}
# Whose processor stretches before it crops: the service shows square pictures alone in the same way.
_SQUARE = {"DeiT"}


@pytest.fixture(scope="module")
def hf() -> Any:
    """The library, imported by no other process of tests than that of this file."""
    try:
        library = importlib.import_module("transformers")
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("transformers is not installed: pip install '.[transformers]'")
    library.utils.logging.disable_progress_bar()
    return library


@pytest.fixture(scope="module")
def saved(hf: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network of each architecture, as the library saves it."""
    root = tmp_path_factory.mktemp("saved")
    for name, (configuration, (processor, arguments), _) in ARCHITECTURES.items():
        torch.manual_seed(len(name))
        config = getattr(hf, f"{name}Config")(**configuration, id2label=dict(enumerate(LABELS)))
        model = getattr(hf, f"{name}ForImageClassification")(config)
        _enliven(model)
        model.save_pretrained(root / name)
        getattr(hf, processor)(**arguments).save_pretrained(root / name)
    return root


def _enliven(model: nn.Module) -> None:
    """The library draws parameters so small that logits hardly differ."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
            elif "layer_scale" in name:
                parameter.fill_(0.5)
        model.eval()
        logits = model(torch.randn(8, 3, SIDE, SIDE)).logits
        classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        classifier.weight.div_(logits.std())


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """One network that a test may change."""
    return Path(shutil.copytree(saved / "ResNet", tmp_path / "mine"))


def load(folder: Path, *lines: str, place: str | None = None, mirror: str | None = None) -> Network:
    """Loads the entry of a configuration beside a folder."""
    config = folder.parent / f"{folder.name}.toml"
    config.write_text("\n".join(["[networks.mine]", f'architecture = "transformers:{place or folder.name}"', *lines]))
    return load_network(read_config(config)["mine"], CPU, mirror=mirror)


def change(file: Path, **fields: Any) -> None:
    """Sets keys of a JSON file; None takes them out."""
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def own_model(hf: Any, folder: Path) -> nn.Module:
    model: nn.Module = hf.AutoModelForImageClassification.from_pretrained(folder)
    return model.eval().requires_grad_(requires_grad=False)


def own_pixels(hf: Any, folder: Path, picture: Image.Image) -> Tensor:
    """What the library's image processor makes of a picture, with Pillow."""
    kind = json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"]
    processor = getattr(hf, f"{kind}Pil").from_pretrained(folder)
    pixels: Tensor = processor(picture, return_tensors="pt")["pixel_values"]
    return pixels


def view_of(folder: Path) -> Preprocessing:
    """Of an entry that states nothing, without the network."""
    spec = NetworkSpec("mine", "transformers", str(folder), folder=folder.parent)
    view = with_what_its_files_say(spec).preprocessing
    assert view is not None
    return view


def input_of(view: Preprocessing, picture: Image.Image) -> Tensor:
    return normalise(torch.from_numpy(np.array(render_view(picture, view, view.fit)))[None], view, CPU)


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


def test_what_the_entry_states_wins(hf: Any, folder: Path) -> None:
    del hf
    network = load(
        folder,
        'labels = ["a", "b", "c", "d", "e"]',
        'scores = "sigmoid"',
        'preprocessing = { resize_size = 96, interpolation = "lanczos", mean = [0.1, 0.2, 0.3], fit = "pad" }',
        'layers = { pre_gap = "resnet.encoder.stages.2" }',
    )
    view = network.preprocessing
    assert network.labels == tuple("abcde")
    assert network.is_multi_label
    assert (view.resize_size, view.interpolation, view.fit) == (96, "lanczos", "pad")
    assert (view.mean, view.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert network.layers["pre_gap"] == "resnet.encoder.stages.2"


def test_another_size_of_input_takes_the_short_side_along(hf: Any, folder: Path) -> None:
    del hf
    assert load(folder).preprocessing.resize_size == 73
    view = load(folder, "preprocessing = { input_size = 128 }").preprocessing
    assert (view.input_size, view.resize_size) == ((128, 128), 146)


def test_several_labels_are_told_by_the_configuration(hf: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    del hf
    change(folder / "config.json", problem_type="multi_label_classification")
    with caplog.at_level(logging.INFO):
        network = load(folder)
    assert network.is_multi_label
    assert 'takes scores = "sigmoid", since its config.json says problem_type' in caplog.text
    assert not load(folder, 'scores = "softmax"').is_multi_label


def test_labels_that_are_only_numbers_are_numbers(hf: Any, folder: Path) -> None:
    del hf
    change(folder / "config.json", id2label={str(number): f"LABEL_{number}" for number in range(5)})
    assert load(folder).labels == tuple("01234")


def test_one_logit_is_two_labels(hf: Any, tmp_path: Path) -> None:
    config = hf.ResNetConfig(**ARCHITECTURES["ResNet"][0], id2label={0: "malignant"})
    hf.ResNetForImageClassification(config).save_pretrained(tmp_path / "mole")
    hf.ViTImageProcessor(size=SIDE).save_pretrained(tmp_path / "mole")
    with pytest.raises(NetworkError, match='state scores = "sigmoid"'):
        load(tmp_path / "mole")
    assert load(tmp_path / "mole", 'scores = "sigmoid"').labels == ("not malignant", "malignant")


@pytest.mark.parametrize("layout", ["shards", "pickled"])
def test_other_files_of_parameters(hf: Any, folder: Path, layout: str) -> None:
    whole = folder / "model.safetensors"
    state = load_file(whole)
    if layout == "shards":
        own_model(hf, folder).save_pretrained(folder, max_shard_size="20KB")
        whole.unlink(missing_ok=True)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    else:
        torch.save(state, folder / "pytorch_model.bin")
        whole.unlink()
    network = load(folder)
    for name, value in network.model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ResNet", "ViT"])
def test_another_file_by_key_and_prefix_and_of_other_classes(hf: Any, saved: Path, tmp_path: Path, name: str) -> None:
    """As Lightning saves one: the entry's file and classes, not those of the folder."""
    folder = Path(shutil.copytree(saved / name, tmp_path / "mine"))
    config = hf.AutoConfig.from_pretrained(folder, num_labels=3)
    model = hf.AutoModelForImageClassification.from_config(config)
    state = {f"net.{key}": value for key, value in model.state_dict().items()} | {"loss.weight": torch.ones(3)}
    torch.save({"best": state}, tmp_path / "best.ckpt")
    lines = ('weights = "best.ckpt"', 'weights_key = "best"', 'weights_prefix = "net."')
    with pytest.raises(NetworkError, match=r"of another shape: classifier.*; set classes = 3"):
        load(folder, *lines)
    network = load(folder, *lines, "classes = 3")
    assert network.labels == ("0", "1", "2")
    for key, value in network.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=0, atol=0)


def test_parameters_of_another_number_of_classes_say_so_under_old_names(hf: Any, saved: Path) -> None:
    del hf
    with pytest.raises(NetworkError, match=r"2 of another shape: classifier\.weight.*; set classes = 5$"):
        load(saved / "ViT", 'labels = ["a", "b"]')


def test_renamed_parameters_of_the_folder_itself(hf: Any, folder: Path) -> None:
    del hf
    state = load_file(folder / "model.safetensors")
    renamed = {name.replace("classifier.", "head."): value for name, value in state.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NetworkError, match="set weights_rename"):
        load(folder)
    assert load(folder, 'weights_rename = { "head." = "classifier." }').labels == LABELS


def test_arguments_change_the_configuration(hf: Any, folder: Path) -> None:
    del hf
    network = load(folder, 'arguments = { hidden_act = "silu" }')
    assert any("silu" in type(module).__name__.lower() for module in network.model.modules())


@pytest.mark.parametrize(
    ("config", "lines", "words"),
    [
        (
            {"auto_map": {"AutoModelForImageClassification": "modeling_own.Net"}},
            [],
            r"its network is code of its own \(auto_map: modeling_own\.Net\), and code that comes with a network is "
            "never run.*'resnet'",
        ),
        ({"model_type": "own-net"}, [], r"model_type: transformers [\d.]+ has no own-net"),
        ({"model_type": "bert"}, [], "bert is no image classifier in transformers"),
        ({"model_type": "timm_wrapper", "architecture": "resnet18"}, [], 'state architecture = "timm:resnet18"'),
        ({"model_type": None, "architecture": "resnet18"}, [], 'state architecture = "timm:resnet18"'),
        ({"problem_type": "regression"}, [], 'problem_type = "regression": its outputs are quantities'),
        ({"quantization_config": {"quant_method": "gptq"}}, [], "its parameters are quantised"),
        ({"num_channels": 4}, [], "num_channels = 4: only networks with one or three"),
        ({}, ["preprocessing = { channels = 1 }"], "preprocessing.channels: 1, but .* num_channels = 3"),
        ({"layer_type": "none"}, [], "transformers does not take its configuration: .*layer_type=none"),
        ({}, ["classes = 4", "arguments = { num_labels = 3 }"], "arguments.num_labels: 3 contradicts classes = 4"),
        ({}, ['weights = "hub"'], "its architecture is a folder, and has no hub"),
        ({}, ['weights = "net.pt2"'], r"weights: an archive of torch\.export \(\.pt2\) is not taken.*state_dict"),
        ({}, ["preprocessing = { resize_size = 32 }"], "preprocessing.resize_size: 32 px is less than the input"),
        ({}, ["preprocessing = { mean = [0.5] }"], "preprocessing.mean: 1 numbers for 3 channels"),
    ],
)
def test_what_cannot_be_is_refused_in_words_that_help(
    hf: Any, folder: Path, config: dict[str, Any], lines: list[str], words: str
) -> None:
    del hf
    change(folder / "config.json", **config)
    with pytest.raises(NetworkError, match=words) as caught:
        load(folder, *lines)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (None, "there is no preprocessor_config.json in its folder, so input_size, mean, std must be stated"),
        ({"auto_map": {"AutoImageProcessor": "processing_own.Own"}}, "does not say all, so input_size, mean, std must"),
        ({"image_processor_type": "OwnImageProcessor"}, "does not say all, so input_size, mean, std must be stated"),
        ({"image_processor_type": "LlavaNextImageProcessor"}, "does not say all, so input_size, mean, std must"),
        ({"image_processor_type": "BitImageProcessor", "do_resize": False}, "so input_size must be stated"),
        ({"image_processor_type": "PoolFormerImageProcessor", "size": "many"}, "so input_size, mean, std must"),
    ],
)
def test_a_view_that_no_file_says_must_be_stated(
    hf: Any, folder: Path, processor: dict[str, Any] | None, words: str
) -> None:
    del hf
    file = folder / "preprocessor_config.json"
    if processor is None:
        file.unlink()
    else:
        change(file, **processor)
    with pytest.raises(NetworkError, match=words):
        load(folder)
    stated = "preprocessing = { input_size = 48, mean = [0.5, 0.4, 0.3], std = [0.25, 0.2, 0.3] }"
    view = load(folder, stated).preprocessing
    assert (view.input_size, view.resize_size, view.mean) == ((48, 48), 48, (0.5, 0.4, 0.3))


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


def test_one_channel(hf: Any, tmp_path: Path) -> None:
    config = hf.ResNetConfig(**ARCHITECTURES["ResNet"][0], num_channels=1, num_labels=3)
    hf.ResNetForImageClassification(config).save_pretrained(tmp_path / "grey")
    hf.ViTImageProcessor(size=SIDE).save_pretrained(tmp_path / "grey")
    network = load(tmp_path / "grey")
    assert network.preprocessing.channels == 1
    assert network.preprocessing.mean == (0.5,)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("absent", r"architecture: there is no folder .*absent, and 'absent' is no .OWNER/NAME. of the hub"),
        ("a/b/c", "there is no folder .*, and 'a/b/c' is no"),
        ("mine", "the folder .*mine has no config.json"),
    ],
)
def test_a_place_that_is_none(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(NetworkError, match=words):
        load(tmp_path / "mine", place=place)


def test_a_folder_needs_no_way_out(hf: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del hf
    asked: list[object] = []

    def refuse(_socket: socket.socket, address: object) -> None:
        asked.append(address)
        raise OSError("no way out")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: refuse(socket.socket(), arguments))
    load(saved / "ViT")
    assert asked == []


def test_the_library_says_nothing_beside_the_log(hf: Any, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    del hf
    load(folder)
    with pytest.raises(NetworkError):
        load(folder, "classes = 3")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_folder_without_parameters(hf: Any, folder: Path) -> None:
    del hf
    (folder / "model.safetensors").unlink()
    with pytest.raises(NetworkError, match="holds no parameters; a folder takes an index"):
        load(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}'])
def test_a_damaged_configuration(hf: Any, folder: Path, content: str) -> None:
    del hf
    (folder / "config.json").write_text(content)
    with pytest.raises(NetworkError, match="mine: "):
        load(folder)


def test_an_archive_of_torch_export_is_no_architecture(tmp_path: Path) -> None:
    config = tmp_path / "networks.toml"
    config.write_text('[networks.mine]\narchitecture = "net.pt2"\n')
    with pytest.raises(NetworkError, match=r"architecture: an archive of torch\.export \(\.pt2\) is not taken"):
        read_config(config)


def test_without_the_library_the_message_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(
        NetworkError, match=r"needs the library transformers.*; docs/networks\.md says how to install it$"
    ):
        load(tmp_path / "mine")


@pytest.fixture
def hub(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Puts a folder on a hub of this machine, as owner/net."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def put(folder: Path) -> None:
        for file in folder.iterdir():
            mirror.files[f"/owner/net/resolve/main/{file.name}"] = file.read_bytes()

    return put


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_network_of_the_hub(
    hf: Any, hub: Callable[[Path], None], mirror: Mirror, folder: Path, tmp_path: Path, is_sharded: bool
) -> None:
    if is_sharded:
        model = own_model(hf, folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="20KB")
    hub(folder)
    expected = load(folder)
    network = load(tmp_path / "entry", place="owner/net", mirror=mirror.url)
    assert network.weights == "transformers/owner/net"
    assert (network.labels, network.preprocessing) == (LABELS, expected.preprocessing)
    images = torch.randn(1, 3, SIDE, SIDE)
    torch.testing.assert_close(network.model(images), expected.model(images), rtol=0, atol=0)
    asked = len(mirror.requests)
    load(tmp_path / "entry", place="owner/net", mirror=mirror.url)
    assert len(mirror.requests) == asked


def test_a_revision_belongs_to_the_architecture(hf: Any, tmp_path: Path) -> None:
    del hf
    with pytest.raises(NetworkError, match="the architecture states the revision: transformers:owner/net@v2"):
        load(tmp_path / "entry", 'weights = "hub:v2"', place="owner/net", mirror="http://127.0.0.1:9")


def test_a_folder_comes_before_the_hub(
    hf: Any, hub: Callable[[Path], None], mirror: Mirror, folder: Path, tmp_path: Path
) -> None:
    del hf
    hub(folder)
    shutil.copytree(folder, tmp_path / "owner" / "net")
    assert load(tmp_path / "entry", place="owner/net", mirror=mirror.url).weights == "file/net"
    assert mirror.requests == []


def test_a_hub_without_a_processor_needs_the_view(
    hf: Any, hub: Callable[[Path], None], mirror: Mirror, folder: Path, tmp_path: Path
) -> None:
    del hf
    (folder / "preprocessor_config.json").unlink()
    hub(folder)
    with pytest.raises(NetworkError, match=r"owner/net has none of the files preprocessor_config\.json, so input_size"):
        load(tmp_path / "entry", place="owner/net", mirror=mirror.url)


def test_no_way_to_the_hub_says_which_folder_would_do(hf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del hf
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        NetworkError,
        match=r"config\.json could not be fetched .*Put the files of owner/net into the folder .*owner/net",
    ):
        load(tmp_path / "entry", place="owner/net", mirror="http://127.0.0.1:9")
