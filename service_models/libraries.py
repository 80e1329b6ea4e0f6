"""What torchvision and timm offer, asked in one way: names, weights, and models with untrained parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import timm
import torch
import torchvision
from timm.models import PretrainedCfg
from torch import nn
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from service_models.errors import ArchitectureError, NetworkError, WeightsError
from service_models.files import printable
from service_models.hugging_face import build_transformers
from service_models.own_code import build_own
from service_models.spec import Hub, NetworkSpec, Preprocessing

Library = Literal["torchvision", "timm"]
# What the libraries call the number of classes, of channels, and the size of the input.
CLASSES_ARGUMENT = "num_classes"
CHANNELS_ARGUMENT = "in_chans"
SIZE_ARGUMENTS = ("img_size", "image_size", "input_size")

# Their auxiliary heads only serve training, and the input transform undoes what every weights file of theirs
# was trained without.
_TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "inception_v3": {"aux_logits": False, "transform_input": True, "init_weights": False},
    "googlenet": {"aux_logits": False, "transform_input": True, "init_weights": False},
}
_TORCHVISION_SIZE_ARGUMENT = {"vit_": "image_size", "maxvit_": "input_size"}


@cache
def architectures(library: Library) -> tuple[str, ...]:
    """The image classification networks that a library can build, sorted, without weight tags."""
    if library == "torchvision":
        return tuple(list_models(module=torchvision.models))
    return tuple(timm.list_models())


def weights_names(library: Library, architecture: str) -> tuple[str, ...]:
    """The names of the weights that the library's hub holds for an architecture; its default comes first."""
    if library == "torchvision":
        enum = get_model_weights(architecture)
        default = getattr(enum, "DEFAULT", None)
        # Weights without categories are backbones: torchvision has one such, for VGG-16.
        names = [entry.name for entry in enum if entry.meta.get("categories")]
        return tuple(sorted(names, key=lambda name: default is None or name != default.name))
    tagged = timm.list_pretrained(f"{architecture}.*")
    default = timm.models.get_pretrained_cfg(architecture)
    tags = [name.partition(".")[2] for name in tagged]
    return tuple(sorted(tags, key=lambda tag: default is None or tag != default.tag))


def torchvision_weights(spec: NetworkSpec) -> WeightsEnum | None:
    """The entry of torchvision's weights enum that `spec` names; its default where it names none.

    Raises:
        WeightsError: the named weights do not exist.
    """
    tag = _hub_tag(spec)
    enum = get_model_weights(spec.architecture)
    if tag is None:
        return getattr(enum, "DEFAULT", None)
    if tag not in weights_names("torchvision", spec.architecture):
        raise _no_such_weights(spec, tag)
    return enum[tag]


def timm_weights(spec: NetworkSpec) -> PretrainedCfg:
    """The record that timm keeps of the weights that `spec` names, or of its default weights.

    Raises:
        WeightsError: the named weights do not exist.
    """
    tag = _hub_tag(spec)
    name = spec.architecture if tag is None else f"{spec.architecture}.{tag}"
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        raise _no_such_weights(spec, tag)
    return config


def build(spec: NetworkSpec) -> nn.Module:
    """Builds the architecture on the CPU, in float32, with the library's untrained parameters.

    The global random state is left as it was.

    Raises:
        ArchitectureError: the library, or the operator's own code, does not build it.
    """
    # Reseeding the GPUs would start them; everything here happens on the CPU.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if spec.library == "python":
            return build_own(spec)
        if spec.library == "transformers":
            return build_transformers(spec)
        try:
            return _build_torchvision(spec) if spec.library == "torchvision" else _build_timm(spec)
        except (TypeError, ValueError, RuntimeError, AssertionError, ImportError) as error:
            raise ArchitectureError(
                f"{spec.name}: {spec.library} cannot build {spec.architecture!r}: {printable(error, 500)}"
            ) from error


@contextmanager
def reporting_input_size(spec: NetworkSpec, preprocessing: Preprocessing) -> Iterator[None]:
    """Around a run of the network on pictures of its view's size.

    Raises:
        ArchitectureError: the network does not take them.
    """
    try:
        yield
    except NetworkError:
        raise
    # Any model of two large libraries, or an operator's: what they raise on a wrong size is not agreed upon.
    except Exception as error:
        height, width = preprocessing.input_size
        size = f"{height} x {width} px with {preprocessing.channels} channel{'s' if preprocessing.channels > 1 else ''}"
        message = f"{spec.name}: {spec.architecture} does not take {size}: {printable(error, 500)}"
        raise ArchitectureError(message) from error


def _build_torchvision(spec: NetworkSpec) -> nn.Module:
    arguments = dict(_TORCHVISION_ARGUMENTS.get(spec.architecture, {}))
    if spec.classes is not None:
        arguments["num_classes"] = spec.classes
    weights = torchvision_weights(spec)
    size = _square_size(spec) or (weights.meta.get("min_size", (None,))[0] if weights else None)
    for prefix, argument in _TORCHVISION_SIZE_ARGUMENT.items():
        if size is not None and spec.architecture.startswith(prefix):
            arguments[argument] = size if argument == "image_size" else (size, size)
    return get_model(spec.architecture, weights=None, **(arguments | dict(spec.arguments)))


def _build_timm(spec: NetworkSpec) -> nn.Module:
    config = timm_weights(spec)
    arguments: dict[str, Any] = {}
    if spec.classes is not None:
        arguments["num_classes"] = spec.classes
    size = spec.preprocessing.input_size if spec.preprocessing else None
    channels = spec.preprocessing.channels if spec.preprocessing else None
    if channels is not None and channels != config.input_size[0]:
        arguments[CHANNELS_ARGUMENT] = channels
    if config.fixed_input_size and size is not None and tuple(config.input_size[1:]) != size:
        arguments["img_size"] = size
    name = f"{spec.architecture}.{config.tag}" if config.tag else spec.architecture
    model: nn.Module = timm.create_model(name, pretrained=False, **(arguments | dict(spec.arguments)))
    if getattr(model, "num_classes", None) == 0:
        raise ArchitectureError(
            f"{spec.name}: {name} is a backbone without a classifier; a configuration entry with `classes` "
            "and a checkpoint gives it one"
        )
    return model


def _square_size(spec: NetworkSpec) -> int | None:
    """The side of the configured input in px, None where none is configured or it is not square."""
    if spec.preprocessing is None:
        return None
    height, width = spec.preprocessing.input_size
    return height if height == width else None


def _hub_tag(spec: NetworkSpec) -> str | None:
    return spec.weights.tag if isinstance(spec.weights, Hub) else None


def _no_such_weights(spec: NetworkSpec, tag: str | None) -> WeightsError:
    assert spec.library in ("torchvision", "timm")
    known = ", ".join(weights_names(spec.library, spec.architecture)) or "none"
    return WeightsError(f"{spec.name}: {spec.library} has no weights {tag!r} for {spec.architecture}; it has: {known}")
