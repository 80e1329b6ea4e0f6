"""Entries of networks of the library transformers: what they may state, their checkpoints, and what is refused."""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from service_models.config import read_config
from service_models.errors import NetworkError
from tests.service_models.hugging_face import ARCHITECTURES, LABELS, SIDE, change, load, own_model


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


def test_one_channel(hf: Any, tmp_path: Path) -> None:
    config = hf.ResNetConfig(**ARCHITECTURES["ResNet"][0], num_channels=1, num_labels=3)
    hf.ResNetForImageClassification(config).save_pretrained(tmp_path / "grey")
    hf.ViTImageProcessor(size=SIDE).save_pretrained(tmp_path / "grey")
    network = load(tmp_path / "grey")
    assert network.preprocessing.channels == 1
    assert network.preprocessing.mean == (0.5,)


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
