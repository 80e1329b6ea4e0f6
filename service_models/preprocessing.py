"""The evaluation view that a library states for a network's weights."""

import logging
import math
from dataclasses import replace
from typing import Any, get_args

from timm.data.config import resolve_data_config

from service_models.errors import ArchitectureError, ConfigError
from service_models.libraries import timm_weights, torchvision_weights
from service_models.spec import Fit, Interpolation, NetworkSpec, Preprocessing

# Of a network's input: the picture's luminance, or its colours.
CHANNELS = (1, 3)

# timm's crop modes, where a network sees the whole of what they leave.
_FITS: dict[str, Fit] = {"center": "crop", "squash": "stretch", "border": "pad"}

_log = logging.getLogger(__name__)


def library_preprocessing(spec: NetworkSpec) -> Preprocessing:
    """The evaluation view that the library states for the weights of `spec`, or for its default weights.

    A few timm networks were evaluated on a squashed or a letterboxed picture. Those that saw all of it have that as
    their fit; the others get a centre crop of the same scale, and a warning in the log.

    Raises:
        ArchitectureError: the network takes other than one or three channels.
        ConfigError: the operator's own code states none.
        WeightsError: the weights that `spec` names do not exist.
    """
    if spec.library == "python":
        raise ConfigError("preprocessing: own code takes input_size, mean and std: nothing else states them")
    assert spec.library in ("torchvision", "timm")
    view = _of_torchvision(spec) if spec.library == "torchvision" else _of_timm(spec)
    if view.channels not in CHANNELS or len(view.std) != view.channels:
        raise ArchitectureError(f"{spec.name}: only networks with one or three input channels can be explained")
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
    fit = _FITS.get(config["crop_mode"])
    if fit is None or (fit != "crop" and config["crop_pct"] != 1):
        _log.warning(
            "%s: timm evaluates it with crop mode %r at %s of the picture; the service uses a centre crop of the same "
            "scale",
            spec.name,
            config["crop_mode"],
            config["crop_pct"],
        )
        fit = "crop"
    return Preprocessing(
        input_size=(height, width),
        # As timm's transforms do: the crop is this fraction of the resized short side.
        resize_size=max(math.floor(max(height, width) / config["crop_pct"]), height, width),
        interpolation=_interpolation(config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        fit=fit,
    )


def _interpolation(name: str) -> Interpolation:
    if name in get_args(Interpolation):
        return name  # type: ignore[return-value]
    return "bilinear"
