"""The border to the libraries' hubs: downloads are checked, damage is not kept, and no way out is told at once."""

import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from service_models import NetworkSpec
from service_models.errors import HubUnreachable, WeightsError
from service_models.hub import HubFile, fetch, hub_file
from service_models.spec import Hub
from testing.mirror import Mirror

TORCHVISION = NetworkSpec("resnet18", "torchvision", "resnet18", weights=Hub("IMAGENET1K_V1"))
TIMM = NetworkSpec("atto", "timm", "convnext_atto", weights=Hub("d2_in1k"))
CONTENT = b"parameters" * 1000
# The first digits of the SHA-256 of CONTENT.
DIGEST = "9b9ba6dc"


def _plain(mirror: Mirror, digest: str = DIGEST) -> HubFile:
    path = f"/models/net-{digest}.pth"
    mirror.files[path] = CONTENT
    return HubFile("torchvision/V1", mirror.url + path)


def _repository(mirror: Mirror, name: str = "model.safetensors") -> HubFile:
    mirror.files[f"/timm/net/resolve/main/{name}"] = CONTENT
    files = ("model.safetensors", "pytorch_model.bin")
    return HubFile("timm/a", f"{mirror.url}/timm/net/resolve/main/model.safetensors", "timm/net", files)


def _kept(directory: Path) -> list[bytes]:
    """Contents of all files of a cache but its small notes."""
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_plain_file_is_downloaded_once_and_then_found_in_the_cache(mirror: Mirror, tmp_path: Path) -> None:
    file = _plain(mirror)

    first = fetch(file, cache_dir=tmp_path)
    requests = len(mirror.requests)
    second = fetch(file, cache_dir=tmp_path)

    assert first == second == tmp_path / f"net-{DIGEST}.pth"
    assert first.read_bytes() == CONTENT
    assert len(mirror.requests) == requests


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_repository_file_is_downloaded_once_and_then_found_in_the_cache(
    mirror: Mirror, tmp_path: Path, name: str
) -> None:
    file = _repository(mirror, name)

    first = fetch(file, mirror.url, tmp_path)
    requests = len(mirror.requests)
    second = fetch(file, mirror.url, tmp_path)

    assert first == second
    assert (first.name, first.read_bytes()) == (name, CONTENT)
    assert len(mirror.requests) == requests


def test_a_plain_file_of_another_digest_is_refused_and_not_kept(mirror: Mirror, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"damaged: its SHA-256 is {DIGEST}.*, not 00000000.*not kept"):
        fetch(_plain(mirror, "00000000"), cache_dir=tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_repository_file_of_another_digest_is_refused_and_not_kept(mirror: Mirror, tmp_path: Path) -> None:
    file = _repository(mirror)
    mirror.digests["/timm/net/resolve/main/model.safetensors"] = "0" * 64

    for _ in range(2):
        with pytest.raises(WeightsError, match="damaged"):
            fetch(file, mirror.url, tmp_path)

    assert _kept(tmp_path) == []


def test_a_file_damaged_in_the_cache_is_refused_by_its_path(mirror: Mirror, tmp_path: Path) -> None:
    path = fetch(_plain(mirror), cache_dir=tmp_path)
    path.write_bytes(b"cut")

    with pytest.raises(WeightsError, match=rf"{path}, from .* is damaged.*delete it"):
        fetch(_plain(mirror), cache_dir=tmp_path)
    assert path.exists()


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_refusal_of_the_hub_is_told_with_its_status(mirror: Mirror, tmp_path: Path, status: int) -> None:
    mirror.status = status

    for file in (_plain(mirror), _repository(mirror)):
        with pytest.raises(HubUnreachable, match=f"HTTP status {status}"):
            fetch(file, mirror.url, tmp_path)


def test_files_that_the_hub_does_not_have(mirror: Mirror, tmp_path: Path) -> None:
    files = _plain(mirror), _repository(mirror)
    mirror.files.clear()

    for file in files:
        with pytest.raises(HubUnreachable, match=r"404|none of the files model\.safetensors"):
            fetch(file, mirror.url, tmp_path)
    assert _kept(tmp_path) == []


@pytest.mark.parametrize("repository", [None, "timm/net"])
def test_no_way_to_the_hub_is_told_within_seconds(tmp_path: Path, repository: str | None) -> None:
    # The discard port: nothing listens there.
    nowhere = "http://127.0.0.1:9"
    started = time.perf_counter()

    with pytest.raises(HubUnreachable, match="refused"):
        fetch(HubFile("x", f"{nowhere}/net.pth", repository, ("model.safetensors",)), nowhere, tmp_path)

    assert time.perf_counter() - started < 5


def test_the_hub_is_not_asked_in_offline_mode(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set"):
        fetch(_repository(mirror), mirror.url, tmp_path)
    assert mirror.requests == []


def test_a_mirror_takes_the_place_of_the_librarys_host() -> None:
    torchvision, timm = hub_file(TORCHVISION, "http://mirror.local"), hub_file(TIMM, "http://mirror.local")

    assert torchvision.label == "torchvision/IMAGENET1K_V1"
    assert torchvision.url.startswith("http://mirror.local/models/resnet18-")
    assert timm.label == "timm/d2_in1k"
    assert timm.url == "http://mirror.local/timm/convnext_atto.d2_in1k/resolve/main/model.safetensors"
