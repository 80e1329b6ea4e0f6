"""Where networks of the library transformers come from: a folder, which needs no way out, or the hub."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from service_models.errors import NetworkError
from testing.mirror import Mirror
from tests.service_models.hugging_face import LABELS, SIDE, load, own_model


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
