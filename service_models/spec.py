"""What the service knows of a network before it loads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the input of a network.

    The evaluation view of a network resizes the picture so that its short side is `resize_size` (antialiased,
    as torchvision does it on PIL images), cuts the central `input_size` out of it, scales to [0, 1] and
    normalises each channel.

    Attributes:
        input_size: (height, width) of the network's input in px.
        resize_size: length of the short side before the crop in px; at least max(input_size).
        interpolation: the filter of the resize.
        mean: per-channel (RGB) mean, for values in [0, 1].
        std: per-channel (RGB) deviation, for values in [0, 1].
    """

    input_size: tuple[int, int] = (224, 224)
    resize_size: int = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Hub:
    """Weights of the library's own hub: a torchvision weights name or a timm tag, None for its default."""

    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """Weights that came with an installed Python package."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights in a file: `.safetensors`, or `.pth`/`.pt` read with `weights_only=True`."""

    path: Path


@dataclass(frozen=True, slots=True)
class Random:
    """Seeded random weights, made lively; for tests and benchmarks only."""

    seed: int = 0


WeightsSource = Hub | Embedded | Checkpoint | Random


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network that can be loaded.

    Attributes:
        name: the name that requests use; matches `[A-Za-z0-9_.-]+`.
        library: which library builds the architecture.
        architecture: the library's name for it, without a weight tag.
        weights: where the parameters come from.
        preprocessing: the evaluation view; None takes what the library states for these weights.
        layers: `pre_gap`, `last_conv`, `last_norm` to module paths; None has them inferred after loading.
        labels: class names in order; None takes ImageNet's for 1,000 classes, else "0", "1", ...
        classes: number of classes; None takes the architecture's default.
    """

    name: str
    library: Literal["torchvision", "timm"]
    architecture: str
    weights: WeightsSource = field(default_factory=Hub)
    preprocessing: Preprocessing | None = None
    layers: Mapping[str, str] | None = None
    labels: tuple[str, ...] | None = None
    classes: int | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network: frozen, in eval mode, on its device.

    Attributes:
        name: the name that requests use.
        model: maps a normalised float32 NCHW batch to logits, (batch, classes).
        preprocessing: the evaluation view.
        layers: named layers to module paths, e.g. {"pre_gap": "layer4", "last_conv": "layer4.1.conv2"}.
        labels: class names, one for each logit.
        weights: where the parameters came from, as replies state it: "embedded", "random",
            "torchvision/IMAGENET1K_V1", "timm/ms_in22k_ft_in1k", "file/resnet50.safetensors".
        device: where it runs.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    layers: Mapping[str, str]
    labels: tuple[str, ...]
    weights: str
    device: torch.device
