"""What the files of a network of transformers say of it: configuration, labels, score function, view."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from service_models import hub
from service_models.errors import ArchitectureError, ConfigError, HubUnreachable, WeightsError
from service_models.files import is_file, printable, read_bounded
from service_models.hugging_face import transformers_library
from service_models.hugging_face_view import processor_view
from service_models.labels import LONGEST_LABEL
from service_models.preprocessing import CHANNELS, with_input_size
from service_models.scores import SIGMOID, ScoreFunction
from service_models.spec import Hub, NetworkSpec, Preprocessing

_log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"

_MOST_BYTES = 16 * 2**20
_DEFAULT_CHANNELS = 3
_CLASSES_ARGUMENT, _CHANNELS_ARGUMENT = "num_labels", "num_channels"
_OUTPUT = "logits"


def with_what_its_files_say(spec: NetworkSpec, mirror: str | None = None) -> NetworkSpec:
    """Completes a network of transformers by its `config.json` and its `preprocessor_config.json`.

    What the configuration entry states wins over what these files say. They lie in the folder that the entry names, or
    are fetched from the hub as weights are.

    Args:
        spec: whose architecture is a folder or a repository.
        mirror: scheme and host in place of the hub's own.

    Returns:
        The same with labels, scores, view, and with its whole configuration as its arguments.

    Raises:
        ArchitectureError: the library is not installed, or the network is none that it may build.
        ConfigError: the files or the entry contradict each other, or do not say enough.
        HubUnreachable: the files are neither here nor to be had.
    """
    transformers_library(spec.name)
    files = _Files(spec, mirror)
    config = _checked(files.required(CONFIG_FILE), spec.name)
    labels = _labels(config, spec)
    config |= spec.arguments
    classes = spec.classes
    if classes is not None:
        if config.get(_CLASSES_ARGUMENT, classes) != classes and _CLASSES_ARGUMENT in spec.arguments:
            raise ConfigError(
                f"{spec.name}: arguments.{_CLASSES_ARGUMENT}: {printable(config[_CLASSES_ARGUMENT])} contradicts "
                f"classes = {classes}"
            )
        config[_CLASSES_ARGUMENT] = classes
    if _CLASSES_ARGUMENT in config:
        # The library would take their number instead.
        config = {key: value for key, value in config.items() if key not in ("id2label", "label2id")}
    return replace(
        spec,
        arguments=config,
        labels=labels,
        scores=_scores(config, spec),
        preprocessing=_view(files, config, spec),
        output=spec.output or _OUTPUT,
    )


class _Files:
    """The JSON files of a network, in its folder or on the hub."""

    def __init__(self, spec: NetworkSpec, mirror: str | None) -> None:
        self._spec, self._mirror = spec, mirror
        self._folder = Path(spec.architecture) if Path(spec.architecture).is_absolute() else None

    def required(self, name: str) -> dict[str, Any]:
        """The content of a file without which there is no network."""
        found, reason = self.optional(name)
        if found is not None:
            return found
        if self._folder is not None:
            raise ConfigError(f"{self._spec.name}: {reason}, {printable(self._folder)}")
        place = (self._spec.folder or Path()) / self._spec.architecture
        raise HubUnreachable(
            f"{self._spec.name}: its {name} could not be fetched ({reason}). Put the files of "
            f"{printable(self._spec.architecture)} into the folder {printable(place)}, or allow a way to "
            f"{hub.repository_file(self._spec, (name,), self._mirror).url}"
        )

    def optional(self, name: str) -> tuple[dict[str, Any] | None, str]:
        """The content of a file, or None and why there is none."""
        if self._folder is not None:
            path = self._folder / name
            return (self._read(path), "") if is_file(path) else (None, f"there is no {name} in its folder")
        file = hub.repository_file(replace(self._spec, weights=Hub()), (name,), self._mirror)
        try:
            return self._read(hub.fetch(file, self._mirror)), ""
        except HubUnreachable as error:
            return None, str(error)
        except WeightsError as error:
            raise WeightsError(f"{self._spec.name}: {error}") from error

    def _read(self, path: Path) -> dict[str, Any]:
        where = f"{self._spec.name}: {printable(path)}"
        try:
            content = json.loads(read_bounded(path, _MOST_BYTES))
        except OSError as error:
            raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where}: is not JSON: {printable(error)}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{where}: is not a JSON object")
        return content


def _checked(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration that the library alone can build."""
    kind = config.get("model_type")
    if code := config.get("auto_map"):
        named = ", ".join(map(str, code.values() if isinstance(code, dict) else [code]))
        raise ArchitectureError(
            f"{name}: {CONFIG_FILE}: its network is code of its own (auto_map: {printable(named)}), and code that "
            f"comes with a network is never run. If transformers itself has '{printable(kind)}', and the parameters "
            "are meant for it, take auto_map out of the file; else write the network down with python:FILE.py:NAME"
        )
    if kind == "timm_wrapper" or (kind is None and "architecture" in config):
        raise ArchitectureError(
            f"{name}: {CONFIG_FILE}: is a network of timm; state architecture = "
            f'"timm:{printable(config.get("architecture"))}" and its file of weights'
        )
    if config.get("quantization_config"):
        raise ArchitectureError(
            f"{name}: {CONFIG_FILE}: its parameters are quantised, and have no gradients; save the network in float32"
        )
    if config.get("problem_type") == "regression":
        raise ArchitectureError(
            f'{name}: {CONFIG_FILE}: problem_type = "regression": its outputs are quantities, and not the scores of '
            "classes"
        )
    return config


def _labels(config: Mapping[str, Any], spec: NetworkSpec) -> tuple[str, ...] | None:
    """The entry's labels, else those of `id2label` where they are names, and as many as the entry says."""
    if spec.labels is not None:
        return spec.labels
    named = config.get("id2label")
    if not isinstance(named, Mapping) or named.keys() != {str(number) for number in range(len(named))} or not named:
        return None
    names = tuple(str(named[str(number)]).strip() for number in range(len(named)))
    if spec.classes not in (None, len(names)) or names == tuple(f"LABEL_{number}" for number in range(len(names))):
        return None
    if not all(0 < len(label) <= LONGEST_LABEL for label in names):
        raise ConfigError(f"{spec.name}: {CONFIG_FILE}: id2label: a name is empty or very long; state labels")
    _log.info("%s: takes the %d labels of its %s", spec.name, len(names), CONFIG_FILE)
    return names


def _scores(config: Mapping[str, Any], spec: NetworkSpec) -> ScoreFunction:
    if spec.are_scores_stated or config.get("problem_type") != "multi_label_classification":
        return spec.scores
    _log.info(
        '%s: takes scores = "sigmoid", since its %s says problem_type = "multi_label_classification"',
        spec.name,
        CONFIG_FILE,
    )
    return SIGMOID


def _view(files: _Files, config: Mapping[str, Any], spec: NetworkSpec) -> Preprocessing:
    content, reason = files.optional(PROCESSOR_FILE)
    if content is None:
        _log.warning("%s: has no %s (%s): what the entry does not state is a guess", spec.name, PROCESSOR_FILE, reason)
    said = processor_view(content, spec.name) if content is not None else {}
    stated = dict(spec.view)
    channels = _channels(config, stated.pop("channels", None), spec.name)
    for name in ("mean", "std"):
        # Grey pictures are normalised by one number, which some files repeat.
        if len(set(said.get(name, ()))) == 1:
            said[name] = said[name][:1] * channels
    missing = [name for name in ("input_size", "mean", "std") if name not in said | stated]
    if missing:
        why = f"its {PROCESSOR_FILE} does not say all" if content is not None else reason
        raise ConfigError(f"{spec.name}: preprocessing: {why}, so {', '.join(missing)} must be stated")
    whole = {} if "input_size" in said else {"resize_size": max(stated["input_size"])}
    view = Preprocessing(**whole | said)
    if "input_size" in said and "input_size" in stated:
        view = with_input_size(view, stated["input_size"])
    view = replace(view, **stated)
    for name, numbers in (("mean", view.mean), ("std", view.std)):
        if len(numbers) != channels:
            raise ConfigError(f"{spec.name}: preprocessing.{name}: {len(numbers)} numbers for {channels} channels")
    if view.resize_size < max(view.input_size):
        height, width = view.input_size
        raise ConfigError(
            f"{spec.name}: preprocessing.resize_size: {view.resize_size} px is less than the input, "
            f"{height} x {width} px"
        )
    return view


def _channels(config: Mapping[str, Any], stated: int | None, name: str) -> int:
    """The channels of the input, of which the network's configuration has the last word."""
    vision = config.get("vision_config")
    inner = vision.get(_CHANNELS_ARGUMENT) if isinstance(vision, Mapping) else None
    channels = config.get(_CHANNELS_ARGUMENT, inner if inner is not None else _DEFAULT_CHANNELS)
    if channels not in CHANNELS:
        raise ArchitectureError(
            f"{name}: {_CHANNELS_ARGUMENT} = {printable(channels)}: only networks with one or three input channels can "
            "be explained"
        )
    if stated not in (None, channels):
        raise ConfigError(
            f"{name}: preprocessing.channels: {stated}, but its configuration says {_CHANNELS_ARGUMENT} = {channels}"
        )
    return int(channels)
