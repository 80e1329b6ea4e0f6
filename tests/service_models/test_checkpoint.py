"""Files of parameters: every usual form is read, every damaged one is refused with its path and a reason."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from service_models.checkpoint import read_checkpoint
from service_models.errors import WeightsError
from service_models.fitting import load_state, mismatches
from service_models.spec import CheckpointFile, NetworkSpec
from service_models.weights import load_weights
from tests.operators_files import UNREADABLE

StateDict = dict[str, Tensor]


def _network(classes: int = 10) -> nn.Sequential:
    torch.manual_seed(classes)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, classes))


def _prefixed(state: StateDict) -> StateDict:
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict_ema": state},
        _prefixed,
        lambda state: {"state_dict": _prefixed(state)},
        lambda state: {f"_orig_mod.{name}": value for name, value in _prefixed(state).items()},
    ],
)
@pytest.mark.parametrize("as_zip", [True, False])
def test_the_usual_forms_are_read(wrap: Callable[[StateDict], object], as_zip: bool, tmp_path: Path) -> None:
    saved, model = _network(), _network()
    with torch.no_grad():
        saved[3].weight.fill_(2)
    path = tmp_path / "birds.pth"
    torch.save(wrap(saved.state_dict()), path, _use_new_zipfile_serialization=as_zip)

    load_weights(model, NetworkSpec("birds", "torchvision", "none", CheckpointFile(path)), (6, 6))

    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.state_dict().items())


def test_safetensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "birds.safetensors"
    save_file(_network().state_dict(), path)

    assert mismatches(_network(), read_checkpoint(path)) == []


def test_counters_of_old_batch_norms_may_be_missing() -> None:
    state = _network().state_dict()
    del state["1.num_batches_tracked"]

    load_state(_network(), dict(state), "old")


def test_names_and_shapes_that_differ_are_named_and_counted() -> None:
    state = dict(_network(37).state_dict())
    del state["0.bias"]
    state["extra"] = torch.zeros(1)

    with pytest.raises(WeightsError) as caught:
        load_state(_network(), state, "birds.pth")

    message = str(caught.value)
    assert message.startswith("birds.pth: does not fit the network: 1 missing: 0.bias; 1 unexpected: extra; ")
    assert "2 of another shape: 3.weight: file has (37, 16), network has (10, 16)" in message
    assert message.endswith("set classes = 37")


def test_long_lists_are_cut() -> None:
    state = {f"layer{number}": torch.zeros(1) for number in range(20)}

    faults = mismatches(_network(), state)

    assert faults[1] == "20 unexpected: layer0, layer1, layer2, layer3, layer4, ..."


def test_a_refused_checkpoint_leaves_the_network_as_it_was() -> None:
    model = _network()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    with pytest.raises(WeightsError):
        load_state(model, dict(_network(37).state_dict()), "birds")

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class _Malicious:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return Path.write_text, (Path("owned"), "yes")  # type: ignore[return-value]


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_checkpoint_is_never_run(as_zip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": _Malicious()}, path, _use_new_zipfile_serialization=as_zip)

    with pytest.raises(WeightsError, match=r"evil\.pth: cannot be read: .*code in it is never run"):
        read_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def test_a_plain_pickle_with_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(_Malicious()))

    with pytest.raises(WeightsError, match=r"evil\.pth: cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 10, 500, 1500])
def test_a_truncated_file_is_refused_with_its_path(suffix: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(_network().state_dict(), path)
    else:
        save_file(_network().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(kept, len(whole) - 1)])

    with pytest.raises(WeightsError, match=rf"cut\{suffix}: "):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x00" * 64, b"PK\x03\x04 no zip"])
def test_what_is_no_checkpoint_is_refused_with_its_path(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=r"page\.pth: cannot be read"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, "a mapping with the keys 'epoch', 'lr'"),
        ([1, 2], "an object of type list"),
        (torch.zeros(3), "an object of type Tensor"),
        ({}, "an object of type dict"),
    ],
)
def test_a_file_without_parameters_says_what_it_holds(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path)

    with pytest.raises(WeightsError, match=message):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.pth: there is no such file"):
        read_checkpoint(tmp_path / "absent.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_at_once_and_in_a_line(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"birds{suffix}"
    UNREADABLE[kind][0](path)
    with pytest.raises(WeightsError, match=rf"birds\{suffix}: ") as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def _safetensors(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def _header(**tensors: object) -> bytes:
    return json.dumps(tensors).encode()


def _entry(dtype: str = "F32", shape: list[int] | None = None, offsets: tuple[int, int] = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "content",
    [
        _safetensors(b"{}", length=2**63),
        _safetensors(b"{}", length=2**27),
        _safetensors(b"{}", length=3),
        _safetensors(b"[" * 100_000),
        _safetensors(b'{"a":' * 100_000),
        _safetensors(_header(a=_entry(offsets=(0, 2**40)))),
        _safetensors(_header(a=_entry(offsets=(4, 0))), data=bytes(4)),
        _safetensors(_header(a=_entry(shape=[2**62, 2**62])), data=bytes(4)),
        _safetensors(_header(a=_entry(dtype="X9")), data=bytes(4)),
        _safetensors(_header(a=_entry(dtype="k" * 40_000)), data=bytes(4)),
        _safetensors(_header(**{"k" * 40_000: 3})),
        _safetensors(b'{"a\\n": "\\ud800"}'),
        _safetensors(json.dumps({f"t{n}": _entry(shape=[0], offsets=(0, 0)) for n in range(100_000)}).encode()),
    ],
    ids=range(13),
)
def test_safetensors_that_lie_are_refused_in_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lying.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"lying\.safetensors: ") as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def _zipped(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def _lists(depth: int) -> bytes:
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def _tuple_as_key(depth: int) -> bytes:
    return b"\x80\x02})" + b"\x85" * depth + b"K\x01s."


@pytest.mark.parametrize(
    "pickled",
    [
        _lists(100_000),
        _tuple_as_key(5_000),
        pickle.dumps({"k" * 40_000: 1}, 2),
        pickle.dumps({"a\nb": 1, 2: 3}, 2),
        pickle.dumps({10**4000: 1}, 2),
        pickle.dumps(dict.fromkeys(range(100_000)), 2),
    ],
    ids=range(6),
)
@pytest.mark.parametrize("as_zip", [True, False])
def test_absurd_pickles_are_refused_in_a_line(tmp_path: Path, pickled: bytes, as_zip: bool) -> None:
    path = tmp_path / "absurd.pth"
    path.write_bytes(_zipped(pickled) if as_zip else pickled)
    with pytest.raises(WeightsError, match=r"absurd\.pth: ") as caught:
        read_checkpoint(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_more_tensors_than_any_network_has_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("service_models.checkpoint._MOST_TENSORS", 1000)
    path = tmp_path / f"many{suffix}"
    state = {f"t{number}": torch.zeros(0) for number in range(1001)}
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(WeightsError, match="holds 1,001 tensors, and no network more than 1,000"):
        read_checkpoint(path)


def test_long_names_of_parameters_are_cut() -> None:
    state = {**_network().state_dict(), "k" * 40_000: torch.zeros(1), "a\nb": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"2 unexpected: k{200}\.\.\., a\\nb"):
        load_state(_network(), state, "birds")


def test_parameters_of_another_layout_are_refused() -> None:
    state = dict(_network().state_dict())
    state["3.weight"] = state["3.weight"].to_sparse()
    with pytest.raises(WeightsError, match="birds: does not fit the network: "):
        load_state(_network(), state, "birds")
