"""Checkpoints as training programs write them: each is loaded, or refused in words that lead to what works."""

import argparse
import logging
import pickle
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from service_models import load_network
from service_models.config import read_config
from service_models.errors import ConfigError, WeightsError
from service_models.spec import Network

CPU = torch.device("cpu")
CLASSES = 7


def trained(value: float = 0.0, classes: int = CLASSES) -> nn.Module:
    """A small network, whose classifier's bias tells it from others."""
    torch.manual_seed(classes)
    model: nn.Module = timm.create_model("test_resnet", num_classes=classes)
    nn.init.constant_(model.get_submodule("fc").bias, value)  # type: ignore[arg-type]
    return model


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Network]:
    """Loads an entry of the configuration with these lines besides architecture and classes."""

    def of(*lines: str) -> Network:
        config = tmp_path / "networks.toml"
        head = ["[networks.mine]", 'architecture = "timm:test_resnet"', f"classes = {CLASSES}"]
        config.write_text("\n".join([*head, *lines]))
        return load_network(read_config(config)["mine"], CPU)

    return of


def assert_has(network: Network, model: nn.Module) -> None:
    state, expected = network.model.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


def lightning_checkpoint(model: nn.Module, **others: torch.Tensor) -> dict[str, object]:
    """As Lightning's `Trainer.save_checkpoint` writes it, by its documentation."""
    optimizer = torch.optim.AdamW(model.parameters())
    return {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()} | others,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.9), "best_k_models": {}}
        },
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "root": Path("/data")},
    }


def test_lightning_as_it_writes_it(
    load: Callable[..., Network], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained()
    torch.save(lightning_checkpoint(model), tmp_path / "last.ckpt")
    with caplog.at_level(logging.INFO):
        assert_has(load('weights = "last.ckpt"'), model)
    assert "took 'model.' off all names of" in caplog.text


def test_lightning_with_settings_of_its_own_type(
    load: Callable[..., Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "lightning.fabric.utilities.data"
    module, model = ModuleType(name), trained()
    module.AttributeDict = type("AttributeDict", (dict,), {"__module__": name})  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for number in range(1, 5):
            patch.setitem(sys.modules, ".".join(name.split(".")[:number]), module)
        checkpoint = lightning_checkpoint(model) | {"hyper_parameters": module.AttributeDict(lr=1e-3)}
        torch.save(checkpoint, tmp_path / "last.ckpt")
    assert_has(load('weights = "last.ckpt"'), model)


def test_lightning_with_parameters_beside_the_network_says_what_helps(
    load: Callable[..., Network], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained()
    torch.save(lightning_checkpoint(model, **{"criterion.weight": torch.ones(CLASSES)}), tmp_path / "last.ckpt")
    with pytest.raises(WeightsError) as caught:
        load('weights = "last.ckpt"')
    assert str(caught.value).endswith('set weights_prefix = "model."')
    with caplog.at_level(logging.INFO):
        assert_has(load('weights = "last.ckpt"', 'weights_prefix = "model."'), model)
    assert "left out 1 parameters without 'model.'" in caplog.text


@pytest.mark.parametrize("with_average", [False, True])
def test_timm_as_its_own_saver_writes_it(
    load: Callable[..., Network], tmp_path: Path, caplog: pytest.LogCaptureFixture, with_average: bool
) -> None:
    model = trained()
    average = ModelEmaV3(trained(5.0)) if with_average else None
    saver = CheckpointSaver(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        args=argparse.Namespace(model="test_resnet", lr=0.1, output=tmp_path),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(epoch=1, metric=np.float64(76.5))
    with caplog.at_level(logging.INFO):
        network = load('weights = "model_best.pth.tar"')
    assert_has(network, trained(5.0) if with_average else model)
    told = "takes 'state_dict_ema', not 'state_dict'; weights_key says otherwise"
    assert (told in caplog.text) == with_average
    assert_has(load('weights = "model_best.pth.tar"', 'weights_key = "state_dict"'), model)


def test_torchvisions_references_with_an_average(load: Callable[..., Network], tmp_path: Path) -> None:
    model, average = trained(), AveragedModel(trained(5.0))
    average.update_parameters(trained(5.0))
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1).state_dict(),
        "lr_scheduler": {"milestones": defaultdict(int, {3: 1})},
        "epoch": 89,
        "args": argparse.Namespace(data_path="/data", lr=0.1, output_dir=Path()),
        "model_ema": average.state_dict(),
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert_has(load('weights = "checkpoint.pth"'), trained(5.0))
    assert_has(load('weights = "checkpoint.pth"', 'weights_key = "model"'), model)


def test_accelerates_shards(load: Callable[..., Network], tmp_path: Path) -> None:
    model, folder = trained(), tmp_path / "checkpoint-500"
    folder.mkdir()
    save_torch_state_dict(dict(model.state_dict()), folder, max_shard_size=200_000)
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert_has(load('weights = "checkpoint-500"'), model)
    next(folder.glob("model-00002*.safetensors")).unlink()
    with pytest.raises(WeightsError, match=r"model-00002.*: there is no such file"):
        load('weights = "checkpoint-500"')


def test_an_index_that_points_outside_of_its_folder_is_refused(load: Callable[..., Network], tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"fc.bias": "../secret.safetensors"}}')
    with pytest.raises(WeightsError, match="names files outside of its folder"):
        load('weights = "checkpoint"')


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_with_one_file(load: Callable[..., Network], tmp_path: Path, name: str) -> None:
    model, folder = trained(), tmp_path / "checkpoint"
    folder.mkdir()
    (save_file if name.endswith("safetensors") else torch.save)(model.state_dict(), folder / name)
    assert_has(load('weights = "checkpoint"'), model)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match="holds no parameters; a folder takes an index"):
        load('weights = "checkpoint"')


@pytest.mark.parametrize(
    "wrapped", [nn.DataParallel, torch.compile, lambda model: nn.DataParallel(torch.compile(model))]
)
def test_wrappers_leave_their_names(
    load: Callable[..., Network], tmp_path: Path, wrapped: Callable[[nn.Module], nn.Module]
) -> None:
    model = trained()
    state = wrapped(model).state_dict()
    assert not any(name in model.state_dict() for name in state)
    torch.save({"state_dict": state}, tmp_path / "wrapped.pth")
    assert_has(load('weights = "wrapped.pth"'), model)


def test_mmpretrain_names_the_parts_of_a_classifier(load: Callable[..., Network], tmp_path: Path) -> None:
    model = trained()
    state = {
        f"head.{name}" if name.startswith("fc.") else f"backbone.{name}": value
        for name, value in model.state_dict().items()
    }
    checkpoint = {"meta": {"epoch": 100, "cfg": "model = dict()"}, "state_dict": state, "message_hub": {}}
    torch.save(checkpoint, tmp_path / "epoch_100.pth")
    with pytest.raises(WeightsError, match="does not fit the network"):
        load('weights = "epoch_100.pth"')
    assert_has(load('weights = "epoch_100.pth"', 'weights_rename = { "backbone." = "", "head.fc." = "fc." }'), model)


def test_a_head_of_another_name_says_what_helps(load: Callable[..., Network], tmp_path: Path) -> None:
    model = trained()
    state = {name.replace("fc.", "fc.1."): value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(WeightsError) as caught:
        load('weights = "mine.pth"')
    hint = re.search(r"set (weights_rename = .*)$", str(caught.value))
    assert hint is not None
    assert_has(load('weights = "mine.pth"', hint[1]), model)


class Settings:
    """Of a user's own program."""


def test_the_type_that_stops_a_checkpoint_is_named(load: Callable[..., Network], tmp_path: Path) -> None:
    torch.save({"state_dict": trained().state_dict(), "config": Settings()}, tmp_path / "mine.pth")
    with pytest.raises(
        WeightsError, match=r"it holds an object of type tests\.service_models\.test_trainers\.Settings"
    ):
        load('weights = "mine.pth"')


@pytest.mark.parametrize("made", [argparse.Namespace, defaultdict, Path], ids=str)
def test_what_is_allowed_beside_the_parameters_runs_nothing(
    tmp_path: Path, load: Callable[..., Network], made: type
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return made, (pickle.loads, Path.cwd)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        load('weights = "evil.pth"')


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['weights = "mine.pth"', 'weights_key = "ema"'], "weights_key: 'ema' is no state dict in it; it is a mapping"),
        (
            ['weights = "mine.pth"', 'weights_prefix = "net."'],
            r"weights_prefix: no name begins with 'net\.'; the first",
        ),
        (['weights = "mine.pth"', 'weights_rename = { "a." = "b." }'], r"weights_rename: no name begins with 'a\.'"),
        (
            ['weights = "mine.pth"', 'weights_rename = { "fc.weight" = "fc.bias" }'],
            r"weights_rename: two parameters would be 'fc\.bias'",
        ),
        (['weights = "mine.safetensors"', 'weights_key = "model"'], "weights_key: a safetensors file has no keys"),
    ],
)
def test_what_an_entry_says_wrongly_is_named_by_its_key(
    load: Callable[..., Network], tmp_path: Path, lines: list[str], message: str
) -> None:
    torch.save({"state_dict": trained().state_dict()}, tmp_path / "mine.pth")
    save_file(trained().state_dict(), tmp_path / "mine.safetensors")
    with pytest.raises(WeightsError, match=message):
        load(*lines)


@pytest.mark.parametrize("key", ['weights_key = "model"', 'weights_prefix = "a."', 'weights_rename = { a = "b" }'])
@pytest.mark.parametrize("weights", ["", 'weights = "random"', 'weights = "hub"', 'weights = "hub:a1_in1k"'])
def test_what_says_how_a_file_is_read_needs_one(load: Callable[..., Network], key: str, weights: str) -> None:
    with pytest.raises(ConfigError, match=f"{key.split()[0]}: only with weights in a file"):
        load(key, weights)


def test_a_deeper_key(load: Callable[..., Network], tmp_path: Path) -> None:
    model = trained()
    torch.save({"best": {"student": model.state_dict()}}, tmp_path / "mine.pt")
    assert_has(load('weights = "mine.pt"', 'weights_key = "best.student"'), model)


@pytest.mark.parametrize("content", ['["a", "b"]', '{"1": "b", "0": "a"}'])
def test_labels_in_json(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    torch.save(trained(classes=2).state_dict(), tmp_path / "mine.pth")
    config = tmp_path / "two.toml"
    config.write_text('[networks.two]\narchitecture = "timm:test_resnet"\nlabels = "labels.json"\nweights = "mine.pth"')
    assert load_network(read_config(config)["two"], CPU).labels == ("a", "b")


@pytest.mark.parametrize(
    "content", ['{"0": "a", "2": "b"}', '{"a": 0, "b": 1}', '"a"', "[]", '["a", 1]', '["a", ""]', "{"]
)
def test_labels_in_json_that_are_none_are_refused(load: Callable[..., Network], tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ConfigError, match=r"labels: .*labels\.json (takes a list of names, or an object|is not JSON)"):
        load('labels = "labels.json"')
