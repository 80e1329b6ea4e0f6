"""The evaluation view that a library states for a network's weights."""

import logging
import math
from dataclasses import replace
from typing import Any, get_args

from timm.data.config import resolve_data_config

from service_models.errors import ArchitectureError
from service_models.libraries import timm_weights, torchvision_weights
from service_models.spec import Interpolation, NetworkSpec, Preprocessing

_log = logging.getLogger(__name__)


def library_preprocessing(spec: NetworkSpec) -> Preprocessing:
    """The evaluation view that the library states for the weights of `spec`, or for its default weights.

    A few timm networks were evaluated on a squashed or a letterboxed picture. This service explains what a
    centre crop shows, so they get a crop of the same scale, and a warning in the log.

    Raises:
        ArchitectureError: the network takes other than three channels.
        WeightsError: the weights that `spec` names do not exist.
    """
    view = _of_torchvision(spec) if spec.library == "torchvision" else _of_timm(spec)
    if len(view.mean) != 3 or len(view.std) != 3:
        raise ArchitectureError(f"{spec.name}: only networks with three input channels can be explained")
    return view


def with_input_size(view: Preprocessing, input_size: tuple[int, int]) -> Preprocessing:
    """The same view for another input size in px: the short side before the crop grows in proportion."""
    scale = max(input_size) / max(view.input_size)
    resize_size = max(math.floor(view.resize_size * scale), max(input_size))
    return replace(view, input_size=input_size, resize_size=resize_size)


def _of_torchvision(spec: NetworkSpec) -> Preprocessing:
    weights = torchvision_weights(spec)
    if weights is None:
        return Preprocessing()
    preset = weights.transforms()
    crop = preset.crop_size[0]
    return Preprocessing(
        input_size=(crop, crop),
        resize_size=max(preset.resize_size[0], crop),
        interpolation=_interpolation(preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _of_timm(spec: NetworkSpec) -> Preprocessing:
    stated = timm_weights(spec).to_dict()
    config: dict[str, Any] = resolve_data_config(pretrained_cfg=stated)
    _, height, width = config["input_size"]
    if config["crop_mode"] != "center":
        _log.warning(
            "%s: timm evaluates it with crop mode %r; the service uses a centre crop of the same scale",
            spec.name,
            config["crop_mode"],
        )
    return Preprocessing(
        input_size=(height, width),
        # As timm's transforms do: the crop is this fraction of the resized short side.
        resize_size=max(math.floor(max(height, width) / config["crop_pct"]), height, width),
        interpolation=_interpolation(config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _interpolation(name: str) -> Interpolation:
    if name in get_args(Interpolation):
        return name  # type: ignore[return-value]
    return "bilinear"
