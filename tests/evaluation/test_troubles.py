"""What an evaluation makes of networks, names and options that are not as one would wish."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service_models import find_networks, load_network
from testing.pictures import encoded, noise
from tests.evaluation.data import EMBEDDED, OPTIONS, photographs, rows, run


def test_a_folder_that_cannot_be_written_to_is_said(many_images: Path, small_config: Path) -> None:
    status, said = run("evaluate", "--data", many_images, "--out", small_config / "out", *OPTIONS, config=small_config)
    assert status == 2
    assert re.fullmatch(r"ERROR: --out: .* cannot be written to: .*\n", said)


def test_a_second_network_can_join_and_one_that_cannot_be_loaded_holds_up_nobody(
    many_images: Path, small_config: Path, tmp_path: Path
) -> None:
    options = [option if option != "small" else "vgg16,small" for option in OPTIONS]
    status, said = run(
        "evaluate", "--data", many_images, "--out", tmp_path / "out", *options, "--limit", 4, config=small_config,
        weights_dir=tmp_path,
    )  # fmt: skip
    assert status == 1
    assert "vgg16 was not evaluated" in said
    assert rows(tmp_path / "out", "small").num_rows > 0


def test_a_network_that_cannot_do_what_is_asked_holds_up_nobody(
    many_images: Path, small_config: Path, tmp_path: Path
) -> None:
    """It has no such layer, or other classes than the labels name; the status says whether anything was evaluated."""
    listed = tmp_path / "list.txt"
    listed.write_text(f"{many_images}/0000.jpg\t285\n{many_images}/0001.jpg\ttiger cat\n")
    common = ("--data", listed, "--methods", "gradcam", "--batch-size", 4)
    embedded_and_small = ("--models", f"small,{EMBEDDED}", "--out", tmp_path / "labels", "--layers", "pre_gap")
    status, said = run("evaluate", *common, *embedded_and_small, config=small_config)
    assert status == 1
    assert "small was not evaluated: --data: the label '285' is no class of the network" in said
    assert rows(tmp_path / "labels", EMBEDDED)["label"].to_pylist() == [285, 282]
    status, said = run("evaluate", *common, "--models", "small", "--out", tmp_path / "all", config=small_config)
    assert status == 2
    layers = ("--models", f"small,{EMBEDDED}", "--layers", "layer4", "--out", tmp_path / "layers")
    status, said = run(
        "evaluate", "--data", many_images, "--limit", 2, "--methods", "gradcam", *layers, config=small_config
    )
    assert status == 1
    assert f"{EMBEDDED} was not evaluated: --layers: {EMBEDDED} has none of layer4" in said
    assert rows(tmp_path / "layers", "small").num_rows == 2


def test_names_that_are_no_text_are_written_out(many_images: Path, small_config: Path, tmp_path: Path) -> None:
    content = (many_images / "0000.jpg").read_bytes()
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("Käse 猫.jpg".encode(), b"latin-\xe4.jpg", b"new\nline.jpg"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(content)  # noqa: PTH118
    status, said = run("evaluate", "--data", folder, "--out", tmp_path / "out", *OPTIONS, config=small_config)
    assert status == 0, said
    names = dict.fromkeys(rows(tmp_path / "out", "small")["image"].to_pylist())
    assert sorted(names) == ["Käse 猫.jpg", "latin-\\udce4.jpg", "new\nline.jpg"]


@pytest.mark.parametrize(
    "option", [("--limit", 0), ("--limit", -1), ("--batch-size", 0), ("--stall", 0), ("--stall", "nan")]
)
def test_numbers_that_mean_nothing_are_refused(option: tuple[str, object], tmp_path: Path) -> None:
    status, said = run("evaluate", "--data", tmp_path, "--out", tmp_path / "out", *option)
    assert status == 2
    assert f"argument {option[0]}: invalid number" in said


def test_a_network_of_several_labels_is_evaluated_without_labels(tmp_path: Path) -> None:
    photographs(tmp_path / "data" / "0")
    config = tmp_path / "networks.toml"
    entry = 'architecture = "timm:test_resnet"\nweights = "random"\nclasses = {classes}\nscores = "sigmoid"\n'
    networks = (("findings", 14), ("mole", 1))
    config.write_text("".join(f"[networks.{name}]\n{entry.format(classes=classes)}" for name, classes in networks))
    command = ("evaluate", "--data", tmp_path / "data", "--methods", "gradcam", "--layers", "pre_gap")
    status, said = run(*command, "--models", "findings", "--target", "label", "--out", tmp_path / "no", config=config)
    assert status != 0
    assert "every label of findings is true or false for itself" in said
    status, said = run(*command, "--models", "findings,mole", "--out", tmp_path / "out", config=config)
    assert status == 0, said
    assert set(rows(tmp_path / "out", "findings")["label"].to_pylist()) == {None}
    assert set(rows(tmp_path / "out", "mole")["label"].to_pylist()) == {0}


def test_a_grey_network_is_evaluated_on_pictures_of_12_bits_and_held_to_its_check(tmp_path: Path) -> None:
    entry = """
[networks.{name}]
architecture = "timm:test_resnet"
weights = "random"
classes = 4
preprocessing = {{ channels = 1, input_size = 64, resize_size = 64, mean = 0.4, std = 0.2, max_value = 4095 }}
check = {{ image = "data/0.png", logits = {logits} }}
"""
    levels = noise(64, 64, 3, seed=5).astype(np.uint16) * 16 + 7
    (tmp_path / "data").mkdir()
    for number in range(3):
        plane = encoded(Image.fromarray(levels[..., number]), "PNG")
        (tmp_path / "data" / f"{number}.png").write_bytes(plane)
    config = tmp_path / "networks.toml"
    config.write_text(entry.format(name="film", logits="[0, 0, 0, 0]"))
    (spec,) = find_networks(["film"], config)
    model = load_network(spec, torch.device("cpu")).model
    with torch.no_grad():
        logits = model(torch.from_numpy((levels.transpose(2, 0, 1)[:, None] / 4095 - 0.4) / 0.2).float())
    config.write_text(entry.format(name="film", logits=logits[0].tolist()) + entry.format(name="other", logits=[0] * 4))
    command = ("evaluate", "--data", tmp_path / "data", "--methods", "gradcam", "--layers", "pre_gap")
    status, said = run(*command, "--models", "film,other", "--out", tmp_path / "out", config=config)
    assert status == 1
    assert "other was not evaluated: " in said
    assert "check" in said
    found = rows(tmp_path / "out", "film")
    probabilities, classes = logits.softmax(1).max(1)
    assert found["predicted_class"].to_pylist() == classes.tolist()
    assert found["probability"].to_pylist() == pytest.approx(probabilities.tolist(), rel=1e-4)
    assert found["warnings"].to_pylist() == [[]] * 3
