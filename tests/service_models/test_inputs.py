"""Networks of one channel, pictures of more than 8 bits, and the fit of a configuration, against plain PyTorch."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from app.imaging.decode import open_image
from app.imaging.picture import depth_warnings, pixels_of
from app.imaging.pixels import Depth
from app.imaging.reading import DecodeSpec, read_image
from app.imaging.tensors import normalise
from app.imaging.view import Fit
from service_models import Network, load_network
from service_models.config import read_config
from service_models.errors import ConfigError, WeightsError
from testing.pictures import MAX_PIXELS, encoded, photograph

GREY = """
[networks.grey]
architecture = "timm:resnet18"
weights = "random"
classes = 5
[networks.grey.preprocessing]
channels = 1
input_size = [96, 128]
resize_size = 128
interpolation = "bilinear"
mean = 0.4
std = 0.2
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Network]:
    def load(text: str) -> Network:
        (tmp_path / "networks.toml").write_text(text)
        (spec,) = read_config(tmp_path / "networks.toml").values()
        return load_network(spec, torch.device("cpu"))

    return load


def refused(tmp_path: Path, text: str) -> str:
    (tmp_path / "networks.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / "networks.toml")
    return str(caught.value)


def input_of(network: Network, data: bytes, fit: Fit | None = None) -> torch.Tensor:
    spec = DecodeSpec.of(network.preprocessing, fit)
    seen = read_image(open_image(data, MAX_PIXELS), spec)
    pixels = pixels_of(seen.view, spec, is_deep=seen.depth is not None)
    return normalise([torch.tensor(pixels)], network.preprocessing, "cpu")


def deep_png(bits: int) -> tuple[bytes, np.ndarray[tuple[int, ...], np.dtype[np.uint16]]]:
    """A photograph of so many bits in a file of 16, and its levels."""
    grey = np.asarray(photograph("chelsea").convert("L"), np.float64)
    noise = np.random.default_rng(0).random(grey.shape)
    levels = np.round((grey + noise) / 256 * (2**bits - 1)).astype(np.uint16)
    return encoded(Image.fromarray(levels), "PNG"), levels


def test_a_network_of_one_channel_takes_the_luminance(load: Callable[[str], Network]) -> None:
    network = load(GREY)
    assert network.model.conv1.weight.shape[1] == 1
    assert network.preprocessing.channels == 1
    data = encoded(photograph("coffee"), "PNG")
    chain = v2.Compose(
        [v2.Resize(128, v2.InterpolationMode.BILINEAR, antialias=True), v2.CenterCrop((96, 128)), v2.Grayscale()]
    )
    seen = np.asarray(chain(Image.open(BytesIO(data))), np.float32)
    expected = (torch.from_numpy(seen)[None, None] / 255 - 0.4) / 0.2
    found = input_of(network, data)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # Else convolutions answer with channels last, and what a network views as a row is none.
    assert nn.Conv2d(1, 2, 3)(found).is_contiguous()
    assert set(network.layers) == {"pre_gap", "last_conv"}


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_bits_of_a_deep_picture_reach_the_network(load: Callable[[str], Network], bits: int, channels: int) -> None:
    white = 2**bits - 1
    numbers = "mean = 0.4\nstd = 0.2" if channels == 1 else "mean = [0.4, 0.5, 0.6]\nstd = [0.2, 0.2, 0.2]"
    text = GREY.replace("channels = 1", f"channels = {channels}\nmax_value = {white}")
    network = load(text.replace("mean = 0.4\nstd = 0.2", numbers))
    data, levels = deep_png(bits)
    # torchvision's resize of a tensor of floats is another implementation than Pillow's.
    whole = torch.from_numpy(levels.astype(np.float32) / white)[None]
    resized = v2.functional.resize(whole, [128], antialias=True)
    seen = v2.functional.center_crop(resized, [96, 128]).expand(channels, -1, -1)
    mean = torch.tensor(network.preprocessing.mean).view(-1, 1, 1)
    found = input_of(network, data)
    torch.testing.assert_close(found, ((seen - mean) / 0.2)[None], rtol=0, atol=2e-4)
    # Eight bits would not do: they are half a level off.
    in_eight = torch.round(seen * 255) / 255
    assert ((in_eight - mean) / 0.2 - found).abs().max() > 5e-3


def test_the_letterbox_of_a_deep_picture_is_the_training_mean(load: Callable[[str], Network]) -> None:
    numbers = "mean = [0.4, 0.5, 0.6]\nstd = [0.2, 0.2, 0.2]"
    network = load(GREY.replace("channels = 1", "channels = 3").replace("mean = 0.4\nstd = 0.2", numbers))
    found = input_of(network, encoded(Image.fromarray(np.full((64, 16), 60000, np.uint16)), "PNG"), "pad")
    torch.testing.assert_close(found[0, :, :, :20], torch.zeros(3, 96, 20), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0, :, 40, 64], (60000 / 65535 - torch.tensor([0.4, 0.5, 0.6])) / 0.2)


def test_the_fit_of_the_entry_is_that_of_requests_that_name_none(load: Callable[[str], Network]) -> None:
    network = load(GREY + 'fit = "stretch"\n')
    data = encoded(photograph("coffee"), "PNG")
    seen = photograph("coffee").resize((128, 96), Image.Resampling.BILINEAR).convert("L")
    expected = (torch.from_numpy(np.asarray(seen, np.float32))[None, None] / 255 - 0.4) / 0.2
    torch.testing.assert_close(input_of(network, data), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(input_of(network, data, "crop"), expected, atol=0.1)


def test_a_picture_that_uses_little_of_its_range_is_said_to_be_dark() -> None:
    assert depth_warnings(None, 65535) == ()
    assert depth_warnings(Depth(8192, 0), 65535) == ()
    (dark,) = depth_warnings(Depth(4080, 0), 65535)
    assert "highest value is 4,080 of 65,535" in dark
    assert "4095 for 12 bits" in dark
    (bright,) = depth_warnings(Depth(5000, 7), 4095)
    assert "7 pixels of this 16-bit picture are above 4,095" in bright


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("mean = 0.4\n", ""), "preprocessing.mean: expected one number, that of the luminance, for channels = 1, "
         "not 3 numbers of the architecture: state it"),
        (("std = 0.2", "std = [0.2, 0.2, 0.2]"), "preprocessing.std: expected one number"),
        (("channels = 1\n", ""), "preprocessing.mean: expected 3 numbers for channels = 3, not one"),
        (("channels = 1", "channels = 2"), "preprocessing.channels: Input should be 1 or 3, not 2"),
        (("timm:", "torchvision:"), "preprocessing.channels: torchvision builds networks of three channels only; timm"),
        (("classes = 5", "classes = 5\narguments = { in_chans = 3 }"),
         "arguments.in_chans: 3 contradicts preprocessing.channels = 1"),
        (("channels = 1", "channels = 1\nmax_value = 70000"), "preprocessing.max_value: "),
        (("channels = 1", 'channels = 1\nfit = "cut"'), "preprocessing.fit: Input should be 'crop', 'stretch'"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_by_its_key(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    assert words in refused(tmp_path, GREY.replace(*change))


def test_a_checkpoint_of_three_channels_does_not_load_into_one(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", num_classes=5).state_dict(), tmp_path / "net.pth")
    (tmp_path / "networks.toml").write_text(GREY.replace('"random"', '"net.pth"'))
    (spec,) = read_config(tmp_path / "networks.toml").values()
    with pytest.raises(WeightsError, match=r"conv1\.weight"):
        load_network(spec, torch.device("cpu"))
