"""The evaluation view is the library's own."""

import logging

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from skimage import data
from timm.data import create_transform
from timm.data.config import resolve_data_config
from torchvision.models import get_model_weights
from torchvision.transforms import v2

from app.imaging.tensors import normalise
from app.imaging.view import render_view
from service_models import NetworkSpec, Preprocessing, resolve
from service_models.errors import WeightsError
from service_models.preprocessing import library_preprocessing
from service_models.spec import Fit, Hub


def _view(preprocessing: Preprocessing) -> v2.Compose:
    """The view that the attributes describe, by torchvision's transforms on PIL images."""
    return v2.Compose(
        [
            v2.Resize(preprocessing.resize_size, interpolation=v2.InterpolationMode(preprocessing.interpolation)),
            v2.CenterCrop(preprocessing.input_size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


@pytest.mark.parametrize(
    ("name", "tag"),
    [("resnet50", "IMAGENET1K_V2"), ("efficientnet_v2_s", None), ("inception_v3", None), ("swin_t", None)],
)
def test_views_of_torchvision_give_its_own_tensors(name: str, tag: str | None) -> None:
    spec = NetworkSpec(name, "torchvision", name, weights=Hub(tag))
    picture = Image.fromarray(data.chelsea())
    weights = get_model_weights(name)[tag or "DEFAULT"]

    ours = _view(library_preprocessing(spec))(picture)

    torch.testing.assert_close(ours, weights.transforms()(picture), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "convnext_atto.d2_in1k", "vit_tiny_patch16_224", "mobilenetv3_large_100"]
)
def test_views_of_timm_give_its_own_tensors(name: str) -> None:
    picture = Image.fromarray(data.chelsea())
    config = resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())

    ours = _view(library_preprocessing(resolve(name)))(picture)

    torch.testing.assert_close(ours, create_transform(**config)(picture), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fit"), [("vit_base_patch16_clip_384.openai_ft_in1k", "stretch"), ("resnet50.tv_in1k", "crop")]
)
def test_networks_that_saw_all_of_a_stretched_picture_see_that_here(name: str, fit: Fit) -> None:
    config = resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    view = library_preprocessing(resolve(name))
    assert view.fit == fit
    picture = Image.fromarray(data.chelsea())
    ours = normalise([torch.tensor(np.asarray(render_view(picture, view, view.fit)))], view, "cpu")[0]
    torch.testing.assert_close(ours, create_transform(**config)(picture), rtol=0, atol=1e-5)


def test_a_crop_of_a_stretched_view_becomes_a_crop_of_the_same_scale_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    squashed = [
        name
        for name in timm.list_models(pretrained=True)
        if (config := timm.models.get_pretrained_cfg(name)).crop_mode == "squash"
        and config.crop_pct != 1
        and config.num_classes
    ]
    with caplog.at_level(logging.WARNING):
        view = library_preprocessing(resolve(squashed[0]))

    assert view.fit == "crop"
    assert "crop mode 'squash'" in caplog.text


def test_weights_that_do_not_exist_are_answered_with_those_that_do() -> None:
    with pytest.raises(WeightsError, match="no weights 'V9' for resnet50; it has: IMAGENET1K_V2, IMAGENET1K_V1"):
        library_preprocessing(NetworkSpec("x", "torchvision", "resnet50", weights=Hub("V9")))
