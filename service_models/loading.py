"""Loads a network: architecture, parameters, evaluation view, layers, labels, checked against each other."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from service_models.calibration import structured_images
from service_models.errors import ArchitectureError, ConfigError
from service_models.hugging_face_files import with_what_its_files_say
from service_models.labels import labels_of
from service_models.layers import check_layers, infer_layers
from service_models.libraries import build, reporting_input_size
from service_models.outputs import as_two_labels, check_outputs, check_tensor, return_logits
from service_models.preprocessing import library_preprocessing
from service_models.scores import SIGMOID
from service_models.spec import Network, NetworkSpec, Preprocessing, Random
from service_models.weights import load_weights

_log = logging.getLogger(__name__)

# So many pictures show whether a configured network returns logits.
_SHOWN = 16


def load_network(
    spec: NetworkSpec, device: torch.device, weights_dir: Path | None = None, mirror: str | None = None
) -> Network:
    """Loads a network onto a device, frozen and in eval mode.

    Args:
        spec: which network, from `resolve`.
        device: where it shall run.
        weights_dir: where weights files named after networks may lie.
        mirror: scheme and host in place of the library's hub; None for its own.

    Returns:
        The network; its layers are the named ones, completed by inferred ones.

    Raises:
        NetworkError: one of its kinds, with a message that says what to do.
    """
    started = time.perf_counter()
    if spec.library == "transformers":
        spec = with_what_its_files_say(spec, mirror)
    preprocessing = spec.preprocessing or library_preprocessing(spec)
    if spec.library == "python":
        _log.info(
            "%s: pictures come to the network by fit = %s, resize_size = %d, interpolation = %s; own code states none, "
            "so what its entry does not state is a guess",
            spec.name,
            preprocessing.fit,
            preprocessing.resize_size,
            preprocessing.interpolation,
        )
    model = build(spec)
    as_it_is = return_logits(model, spec)
    if spec.folder and isinstance(spec.weights, Random):
        with reporting_input_size(spec, preprocessing), torch.no_grad():
            check_tensor(model.eval()(_shown(1, preprocessing)), spec.name)
    weights = load_weights(model, spec, preprocessing, weights_dir, mirror)
    model.eval().requires_grad_(requires_grad=False)
    outputs = _count_outputs(model, spec, preprocessing)
    if spec.folder:
        with torch.no_grad():
            rows = [as_it_is(picture[None]).reshape(1, -1) for picture in _shown(_SHOWN, preprocessing)]
        check_outputs(torch.cat(rows), spec)
    if outputs == 1:
        as_two_labels(model, _shown(2, preprocessing))
    labels = labels_of(spec, outputs)
    layers = _name_layers(model, spec, preprocessing)
    _log.info(
        "%s: loaded in %.1f s, weights %s, layers %s", spec.name, time.perf_counter() - started, weights, dict(layers)
    )
    is_multi_label = spec.scores is SIGMOID and outputs > 1
    return Network(
        spec.name, model.to(device), preprocessing, layers, labels, weights, device, spec.scores, is_multi_label
    )


def _count_outputs(model: nn.Module, spec: NetworkSpec, preprocessing: Preprocessing) -> int:
    """Runs the network and returns how many logits one picture gives."""
    with reporting_input_size(spec, preprocessing), torch.no_grad():
        logits = check_tensor(model(_shown(1, preprocessing)), spec.name)
    if logits.numel() == 1:  # one logit, whose dimensions may have been taken away
        logits = logits.reshape(1, 1)
    if logits.ndim != 2 or logits.shape[0] != 1:
        raise ArchitectureError(
            f"{spec.name}: {spec.architecture} is not a classifier: for one picture it returns the shape "
            f"{tuple(logits.shape)}; expected (1, classes)"
        )
    if not torch.isfinite(logits).all():
        raise ArchitectureError(f"{spec.name}: its logits are not finite; its weights are damaged")
    classes = int(logits.shape[1])
    if spec.classes is not None and classes != spec.classes:
        hint = "; state classes = 1 for its one logit" if classes == 1 else ""
        raise ConfigError(f"{spec.name}: classes = {spec.classes}, but the network has {classes}{hint}")
    if classes == 1 and spec.scores is not SIGMOID:
        raise ConfigError(
            f"{spec.name}: scores: the network has one logit, whose softmax is 1 for every picture; state "
            'scores = "sigmoid"'
        )
    return classes


def _shown(count: int, preprocessing: Preprocessing) -> Tensor:
    """Normalised pictures that a network is tried on."""
    generator = torch.Generator().manual_seed(0)
    return structured_images(count, preprocessing.input_size, generator, preprocessing.channels)


def _name_layers(model: nn.Module, spec: NetworkSpec, preprocessing: Preprocessing) -> Mapping[str, str]:
    """The stated layers, completed by inferred ones unless `pre_gap` and one more are stated."""
    stated = dict(spec.layers or {})
    check_layers(model, stated, spec.name)
    complete = "pre_gap" in stated and len(stated) > 1
    inferred = {} if complete else infer_layers(model, preprocessing.input_size, preprocessing.channels)
    layers = {**inferred, **stated}
    if not layers:
        raise ConfigError(f"{spec.name}: no layer with a spatial grid was found; name one in its `layers` table")
    return MappingProxyType(layers)
