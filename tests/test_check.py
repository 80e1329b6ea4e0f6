"""`python -m app check`, and the numbers that an entry may state: as an operator meets them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from app.__main__ import main
from service_models.calibration import calibrate_random_weights
from testing.pictures import photograph

ENTRY = """
[networks.things]
architecture = "timm:test_resnet"
weights = "things.pth"
labels = ["cat", "dog", "bird"]
[networks.things.preprocessing]
input_size = 96
resize_size = 96
interpolation = "bilinear"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
fit = "stretch"
"""
INCEPTION = """
[networks.branches]
architecture = "torchvision:inception_v3"
weights = "random"
classes = 3
[networks.branches.preprocessing]
input_size = 128
"""


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A checkpoint and a picture beside the entry; the logits that plain PyTorch gives for it."""
    monkeypatch.setenv("CAM_TRUNK", "eager")
    model = calibrate_random_weights(timm.create_model("test_resnet", num_classes=3), 1, (96, 96))
    torch.save(model.state_dict(), tmp_path / "things.pth")
    picture = photograph("coffee").convert("RGB")
    picture.save(tmp_path / "coffee.png")
    seen = np.asarray(picture.resize((96, 96), Image.Resampling.BILINEAR), np.float32) / 255
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(torch.tensor((seen - 0.5) / 0.25).permute(2, 0, 1)[None])
    return logits[0].tolist()


@pytest.fixture
def check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command; gives its status, what it writes and what it logs."""

    def check(text: str, *arguments: str) -> tuple[int, str, str]:
        (tmp_path / "networks.toml").write_text(text)
        caplog.clear()
        status = main(["check", str(tmp_path / "networks.toml"), *arguments])
        return status, capsys.readouterr().out, caplog.text

    return check


Run = Callable[..., tuple[int, str, str]]


def test_it_says_what_a_network_is_and_what_it_says_of_a_picture(
    check: Run, things: list[float], tmp_path: Path
) -> None:
    status, said, _ = check(ENTRY, "things", "--image", str(tmp_path / "coffee.png"))
    assert status == 0
    assert "things: timm:test_resnet, weights file/things.pth" in said
    assert "input: 3 channels, 96 x 96 px; stretched (bilinear); mean 0.5 0.5 0.5, std 0.25 0.25 0.25" in said
    assert "scores: softmax; 3 labels: cat, dog, bird" in said
    assert "on every path to the logits" in said
    best = int(np.argmax(things))
    probability = float(torch.tensor(things).softmax(0)[best])
    assert f"{probability:8.4f}  {['cat', 'dog', 'bird'][best]} (class {best}, logit" in said


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_numbers_that_agree_pass_and_others_are_refused_with_both_rows(
    check: Run, things: list[float], kind: str
) -> None:
    logits = torch.tensor(things, dtype=torch.float64)
    right = (logits if kind == "logits" else logits.softmax(0)).tolist()
    stated = f'[networks.things.check]\nimage = "coffee.png"\n{kind} = '
    status, _, told = check(f"{ENTRY}{stated}{right}\n")
    assert status == 0, told
    status, said, told = check(f"{ENTRY}{stated}{right[::-1]}\n")
    assert status == 1
    assert said == ""
    assert "things: check: the " + kind + " of coffee.png differ by up to" in told
    rows = [line.split() for line in told.splitlines() if line.startswith("  ")]
    assert rows[0] == ["label", "cat", "dog", "bird"]
    assert rows[1] == ["stated", *(f"{value:.4f}" for value in right[::-1])]
    assert [float(cell) for cell in rows[2][1:]] == pytest.approx(right, abs=2e-3)


def test_what_the_picture_was_trained_on_is_found_out(check: Run, things: list[float]) -> None:
    """Served with another fit than it was trained with, which nothing else would notice."""
    stated = f'[networks.things.check]\nimage = "coffee.png"\nlogits = {things}\n'
    status, _, told = check(ENTRY.replace('fit = "stretch"\n', "") + stated)
    assert status == 1
    assert "usual reasons: preprocessing (fit," in told


def test_one_of_several_parallel_branches_is_warned_of(check: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAM_TRUNK", "eager")
    status, said, told = check(INCEPTION)
    assert status == 0, told
    lines = {line.split()[1]: line for line in said.splitlines() if line.startswith("  layer")}
    assert "on every path" in lines["pre_gap:"]
    assert "Mixed_7c.branch_pool" in lines["last_conv:"]
    assert "WARNING: not every path" in lines["last_conv:"]


def test_a_picture_that_is_asked_for_its_size_alone_is_no_path_to_the_logits(check: Run, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)\n\n"
        "    def forward(self, x):\n        count = x.size(0)\n"
        "        return self.fc(self.conv(x).relu().mean((2, 3)).view(count, -1))\n"
    )
    status, said, told = check(
        '[networks.own]\narchitecture = "python:net.py:Net"\nweights = "random"\n'
        "preprocessing = { input_size = 32, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }\n"
    )
    assert status == 0, told
    assert "layer pre_gap: conv+relu, 30 x 30 positions; on every path to the logits" in said


def test_a_file_without_networks_is_no_success(check: Run) -> None:
    status, _, told = check("")
    assert status == 1
    assert "has no networks" in told


def test_one_number_of_two_classes_is_not_enough(check: Run, things: list[float]) -> None:
    text = ENTRY.replace('["cat", "dog", "bird"]', '["cat", "dog"]').replace('"things.pth"', '"random"')
    status, _, told = check(f'{text}[networks.things.check]\nimage = "coffee.png"\nlogits = {things[0]}\n')
    assert status == 1
    assert "check.logits: 1 numbers, but the network has 2; state all" in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("logits = 1", "logits = [1, 2]"), "things: check.logits: 2 numbers, but the network has 3; state all"),
        (("logits = 1", ""), "check: expected probabilities or logits, one of the two"),
        (("logits = 1", "logits = 1\nprobabilities = 1"), "check: expected probabilities or logits, one of the two"),
        (("coffee.png", "tea.png"), "check.image: there is no file"),
        (("coffee.png", "things.pth"), "check.image: "),
        (("logits = 1", "logits = 1\ntolerance = -1"), "check.tolerance: "),
    ],
)
@pytest.mark.usefixtures("things")
def test_a_check_that_cannot_be_made_is_refused_by_its_key(check: Run, change: tuple[str, str], words: str) -> None:
    stated = '[networks.things.check]\nimage = "coffee.png"\nlogits = 1\n'
    status, _, told = check(ENTRY + stated.replace(*change))
    assert status == 1
    assert words in told


def test_a_single_logit_is_checked_by_its_positive_number_or_by_both(check: Run, things: list[float]) -> None:
    del things
    text = ENTRY.replace('labels = ["cat", "dog", "bird"]', 'labels = ["malignant"]\nclasses = 1\nscores = "sigmoid"')
    text = text.replace('weights = "things.pth"', 'weights = "random"')
    status, said, _ = check(text, "--image", str(Path("missing.png")))
    assert status == 1
    assert "2 labels: not malignant, malignant" in said
    stated = '[networks.things.check]\nimage = "coffee.png"\nprobabilities = 2\ntolerance = 0'
    told = check(text + stated)[2]
    found = float(next(line for line in told.splitlines() if line.startswith("  found")).split()[1])
    for numbers in (f"{found}", f"[{1 - found}, {found}]"):
        assert check(text + stated.replace("2\ntolerance = 0", f"{numbers}\ntolerance = 1e-4"))[0] == 0


@pytest.mark.usefixtures("things")
def test_a_picture_that_uses_little_of_its_range_is_warned_of(check: Run, tmp_path: Path) -> None:
    levels = np.asarray(photograph("coffee").convert("L"), np.uint16) * 16
    Image.fromarray(levels).save(tmp_path / "film.png")
    status, said, told = check(ENTRY, "--image", str(tmp_path / "film.png"))
    assert (status, "film.png:" in said) == (0, True), told
    assert (
        f"film.png: this 16-bit picture uses little of its range: its highest value is {levels.max():,} of 65,535"
        in told
    )
    status, _, told = check(f"{ENTRY}max_value = 4095\n", "--image", str(tmp_path / "film.png"))
    assert (status, "little of its range" in told) == (0, False)


def test_an_unknown_name_is_refused(check: Run, things: list[float]) -> None:
    del things
    status, _, told = check(ENTRY, "thing")
    assert status == 1
    assert "thing" in told
