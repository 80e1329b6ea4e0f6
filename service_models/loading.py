"""Loads a network: architecture, parameters, evaluation view, layers, labels, checked against each other."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from service_models.errors import ArchitectureError, ConfigError
from service_models.labels import labels_of
from service_models.layers import check_layers, infer_layers
from service_models.libraries import build, running
from service_models.lively import structured_images
from service_models.preprocessing import library_preprocessing
from service_models.spec import Network, NetworkSpec
from service_models.weights import load_weights

_log = logging.getLogger(__name__)


def load_network(
    spec: NetworkSpec,
    device: torch.device,
    weights_dir: Path | None = None,
    mirror: str | None = None,
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
    preprocessing = spec.preprocessing or library_preprocessing(spec)
    model = build(spec)
    weights = load_weights(model, spec, preprocessing.input_size, weights_dir, mirror)
    model.eval().requires_grad_(requires_grad=False)
    labels = labels_of(spec, _count_classes(model, spec, preprocessing.input_size))
    layers = _name_layers(model, spec, preprocessing.input_size)
    _log.info(
        "%s: loaded in %.1f s, weights %s, layers %s",
        spec.name,
        time.perf_counter() - started,
        weights,
        dict(layers),
    )
    return Network(spec.name, model.to(device), preprocessing, layers, labels, weights, device)


def _count_classes(model: nn.Module, spec: NetworkSpec, input_size: tuple[int, int]) -> int:
    """Runs the network once and returns how many logits one picture gives."""
    picture = structured_images(1, input_size, torch.Generator().manual_seed(0))
    with running(spec, input_size), torch.no_grad():
        logits = model(picture)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[0] != 1:
        raise ArchitectureError(f"{spec.name}: {spec.architecture} is no classifier: it returns no row of logits")
    if not torch.isfinite(logits).all():
        raise ArchitectureError(f"{spec.name}: its logits are not finite; its weights are damaged")
    classes = int(logits.shape[1])
    if spec.classes is not None and classes != spec.classes:
        raise ConfigError(f"{spec.name}: classes = {spec.classes}, but the network has {classes}")
    return classes


def _name_layers(model: nn.Module, spec: NetworkSpec, input_size: tuple[int, int]) -> Mapping[str, str]:
    """The stated layers, completed by inferred ones unless `pre_gap` and one more are stated."""
    stated = dict(spec.layers or {})
    check_layers(model, stated, spec.name)
    complete = "pre_gap" in stated and len(stated) > 1
    inferred = {} if complete else infer_layers(model, input_size)
    layers = {**inferred, **stated}
    if not layers:
        raise ConfigError(f"{spec.name}: no layer with a spatial grid was found; name one in its `layers` table")
    return MappingProxyType(layers)
