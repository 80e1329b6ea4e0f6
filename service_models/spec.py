"""What the service knows of a network before it loads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from service_models.scores import SOFTMAX, ScoreFunction

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Fit = Literal["crop", "stretch", "pad"]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the input of a network.

    The evaluation view of a network resizes the picture so that its short side is `resize_size` (antialiased,
    as torchvision does it on PIL images), cuts the central `input_size` out of it, scales to [0, 1] and
    normalises each channel. A network of one channel gets the luminance of what was cut out.

    Attributes:
        input_size: (height, width) of the network's input in px.
        resize_size: length of the short side before the crop in px; at least max(input_size).
        interpolation: the filter of the resize.
        mean: of each channel, RGB or luminance, for values in [0, 1].
        std: deviation of each channel, for values in [0, 1].
        max_value: what is 1 in pictures of more than 8 bits a channel; larger values count as this one. In others
            255 is 1.
        fit: how a picture is brought to the input's shape, where a request does not say: by the crop described
            above, stretched, or letterboxed.
    """

    input_size: tuple[int, int] = (224, 224)
    resize_size: int = 256
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    max_value: int = 65535
    fit: Fit = "crop"

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return len(self.mean)


@dataclass(frozen=True, slots=True)
class Hub:
    """Weights of the library's own hub: a torchvision weights name or a timm tag, None for its default."""

    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """Weights that came with an installed Python package."""


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """Weights in a file, or in a folder of several with their index.

    Attributes:
        path: `.safetensors`, or what `torch.save` wrote, which is read with `weights_only=True`.
        key: where the state dict lies in it; None for the usual places.
        prefix: is taken off the names; what lacks it is left out. None takes all.
        renamed: beginnings of names to what stands there instead.
    """

    path: Path
    key: str | None = None
    prefix: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Random:
    """Seeded and calibrated random weights; for tests and benchmarks only."""

    seed: int = 0


@dataclass(frozen=True, slots=True)
class Built:
    """The parameters that the operator's own code has built the network with."""


WeightsSource = Hub | Embedded | CheckpointFile | Random | Built
OutputKind = Literal["logits", "log-probabilities", "probabilities"]


@dataclass(frozen=True, slots=True)
class Check:
    """What the operator's own code gave for a picture.

    Attributes:
        image: its file.
        kind: what the values are.
        values: one for each label, or that of the positive label of a single logit.
        tolerance: by how much each may differ.
    """

    image: Path
    kind: Literal["logits", "probabilities"]
    values: tuple[float, ...]
    tolerance: float = 0.01


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network that can be loaded.

    Attributes:
        name: the name that requests use; matches `[A-Za-z0-9_.-]+`.
        library: what builds the architecture; `python` is the operator's own code.
        architecture: the library's name for it, without a weight tag; of own code "FILE.py:NAME", with the file's
            whole path, or "PACKAGE.MODULE:NAME"; of transformers a folder's whole path, or "OWNER/NAME" on the hub.
        weights: where the parameters come from.
        preprocessing: the evaluation view; None takes what the library states for these weights.
        layers: `pre_gap`, `last_conv`, `last_norm` to module paths; None has them inferred after loading.
        labels: class names in order; None takes ImageNet's for 1,000 classes, else "0", "1", ...
        classes: number of outputs; None takes the architecture's default. One is a single logit of two labels.
        scores: how logits become probabilities.
        arguments: keyword arguments of what builds it.
        output: where the logits are in what `forward` returns; None where it returns them alone.
        output_is: what they are; None where nobody has said it, and they must look like logits.
        check: what the network must give for a picture; None where nothing is stated.
        folder: of the configuration; own code may be imported from it. None for networks that no file configures.
        view: of transformers, what the configuration states of the view; the network's files say the rest when it is
            loaded.
        are_scores_stated: whether the configuration states `scores`, and no other file may.
    """

    name: str
    library: Literal["torchvision", "timm", "transformers", "python"]
    architecture: str
    weights: WeightsSource = field(default_factory=Hub)
    preprocessing: Preprocessing | None = None
    layers: Mapping[str, str] | None = None
    labels: tuple[str, ...] | None = None
    classes: int | None = None
    scores: ScoreFunction = SOFTMAX
    arguments: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None
    output_is: OutputKind | None = None
    check: Check | None = None
    folder: Path | None = None
    view: Mapping[str, Any] = field(default_factory=dict)
    are_scores_stated: bool = False


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded network: frozen, in eval mode, on its device.

    Attributes:
        name: the name that requests use.
        model: maps a normalised float32 NCHW batch to logits, (batch, classes).
        preprocessing: the evaluation view.
        layers: named layers to module paths, e.g. {"pre_gap": "layer4", "last_conv": "layer4.1.conv2"}.
        labels: class names, one for each logit.
        scores: how logits become probabilities.
        is_multi_label: whether each of several labels is true or false for itself.
        weights: where the parameters came from, as replies state it: "embedded", "random", "built",
            "torchvision/IMAGENET1K_V1", "timm/ms_in22k_ft_in1k", "transformers/OWNER/NAME",
            "file/resnet50.safetensors".
        device: where it runs.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    layers: Mapping[str, str]
    labels: tuple[str, ...]
    weights: str
    device: torch.device
    scores: ScoreFunction = SOFTMAX
    is_multi_label: bool = False
