"""Makes specifications of the entries in the TOML file of further networks, and refuses what contradicts itself."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from service_models.entries import CheckEntry, NetworkEntry, PreprocessingEntry, quoted, read_entries
from service_models.errors import ConfigError, NetworkError, UnknownNetwork
from service_models.files import is_file, is_folder, printable
from service_models.hugging_face_files import CONFIG_FILE
from service_models.labels import read_labels
from service_models.libraries import CHANNELS_ARGUMENT, CLASSES_ARGUMENT, SIZE_ARGUMENTS
from service_models.preprocessing import library_preprocessing, with_input_size
from service_models.resolve import NAME_PATTERN, library_spec, resolve
from service_models.scores import SCORE_FUNCTIONS
from service_models.spec import (
    Built,
    Check,
    CheckpointFile,
    Embedded,
    Hub,
    NetworkSpec,
    Preprocessing,
    Random,
    WeightsSource,
)

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")

# What torch.export writes.
EXPORTED_SUFFIX = ".pt2"
NOT_EXPORTED = (
    "an archive of torch.export (.pt2) is not taken, since PyTorch runs pickled code that may lie in it; name the "
    "network's architecture, and save `model.state_dict()` as its weights"
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}(?:@[\w./-]{1,100})?", re.ASCII)


def read_config(path: Path) -> dict[str, NetworkSpec]:
    """Reads the networks of a configuration file.

    docs/configuration.md says what each key takes. What an entry leaves out is as the architecture has it; `classes` is
    then the number of labels, where there are two or more.

    Args:
        path: the TOML file.

    Returns:
        The networks by name, in the order of the file.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong; the message names file, entry and field.
    """
    return {name: _specify(path, name, entry) for name, entry in read_entries(path).items()}


def find_networks(names: Iterable[str], path: Path | None) -> list[NetworkSpec]:
    """Finds the networks that names mean, those of a configuration file first.

    Args:
        names: as `resolve` takes them.
        path: the TOML file; None where there is none.

    Raises:
        ConfigError: the file cannot be used.
        UnknownNetwork: nothing has such a name.
    """
    config = read_config(path) if path else {}
    return [resolve(name, config) for name in names]


def _specify(path: Path, name: str, entry: NetworkEntry) -> NetworkSpec:
    where = f"{printable(path)}: [networks.{printable(name)}]"
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(f"{where}: a name takes letters, digits, '_', '.' and '-' only, and at most 200")
    try:
        spec = replace(_base(path, where, name, entry.architecture), name=name, folder=path.parent.resolve())
    except NetworkError as error:
        raise ConfigError(f"{where}: architecture: {error}") from error
    labels = _labels(path, where, entry.labels)
    if labels == ():
        raise ConfigError(f"{where}: labels: expected a name for each class, not an empty list")
    if entry.classes == 1 and entry.scores != "sigmoid":
        raise ConfigError(f'{where}: scores: classes = 1 is a single logit, and takes scores = "sigmoid"')
    if labels and len(labels) == 1 and entry.classes is None:
        raise ConfigError(
            f'{where}: labels: one label is that of a single logit; state classes = 1 and scores = "sigmoid" for it'
        )
    spec = replace(
        spec,
        weights=_weights(path, where, entry, spec.weights),
        classes=entry.classes or (len(labels) if labels else spec.classes),
        labels=labels or spec.labels,
        scores=SCORE_FUNCTIONS[entry.scores],
        layers=_overlay(spec.layers, entry.layers.model_dump(exclude_none=True)),
        arguments=_arguments(where, entry),
        output=entry.output,
        output_is=entry.output_is,
        check=_check(path, where, entry.check),
        view=entry.preprocessing.model_dump(exclude_none=True) if spec.library == "transformers" else {},
        are_scores_stated="scores" in entry.model_fields_set,
    )
    # A single logit takes the name of its positive label, or both.
    if spec.labels and spec.classes and len(spec.labels) not in ((1, 2) if spec.classes == 1 else (spec.classes,)):
        raise ConfigError(f"{where}: labels: {len(spec.labels)} names, but classes = {spec.classes}")
    return replace(spec, preprocessing=_preprocessing(where, entry.preprocessing, spec))


def _base(path: Path, where: str, name: str, architecture: str | None) -> NetworkSpec:
    """The network that an entry starts from."""
    wanted = architecture or name
    library, colon, rest = wanted.partition(":")
    if wanted.endswith(EXPORTED_SUFFIX):
        raise UnknownNetwork(NOT_EXPORTED)
    if not colon:
        return resolve(wanted)
    if library == "transformers":
        return _transformers(path, where, name, rest)
    if library != "python":
        return library_spec(name, library, rest)
    place, colon, maker = rest.rpartition(":")
    if not colon or not maker.isidentifier():
        raise UnknownNetwork(f'{quoted(wanted)} is not "python:FILE.py:NAME" or "python:PACKAGE.MODULE:NAME"')
    if place.endswith(".py"):
        file = _beside(path, f"{where}: architecture", place)
        if not is_file(file):
            raise UnknownNetwork(f"there is no file {printable(file)}")
        place = str(file)
    return NetworkSpec(name, "python", f"{place}:{maker}", weights=Built())


def _transformers(path: Path, where: str, name: str, place: str) -> NetworkSpec:
    """A network of a folder beside the file, or of a repository of the hub where there is no such folder."""
    folder = _beside(path, f"{where}: architecture", place)
    if is_folder(folder):
        if not is_file(folder / CONFIG_FILE):
            raise UnknownNetwork(f"the folder {printable(folder)} has no {CONFIG_FILE}")
        return NetworkSpec(name, "transformers", str(folder), weights=CheckpointFile(folder))
    if not _REPOSITORY.fullmatch(place):
        raise UnknownNetwork(
            f'there is no folder {printable(folder)}, and {quoted(place)} is no "OWNER/NAME" of the hub'
        )
    return NetworkSpec(name, "transformers", place)


def _arguments(where: str, entry: NetworkEntry) -> Mapping[str, Any]:
    """The arguments of what builds the network, which must not contradict what the entry says elsewhere."""
    mean = entry.preprocessing.mean
    stated: dict[str, tuple[str, object]] = {
        CLASSES_ARGUMENT: ("classes", entry.classes),
        CHANNELS_ARGUMENT: ("preprocessing.channels", entry.preprocessing.channels or (len(mean) if mean else 3)),
    }
    for name in SIZE_ARGUMENTS:
        stated[name] = ("preprocessing.input_size", entry.preprocessing.input_size)
    for name, value in entry.arguments.items():
        other, wanted = stated.get(name, ("", None))
        sizes = (value, value) if isinstance(value, int) and name in SIZE_ARGUMENTS else value
        if wanted is not None and wanted != (tuple(sizes) if isinstance(sizes, list) else sizes):
            raise ConfigError(
                f"{where}: arguments.{name}: {printable(value)} contradicts {other} = {printable(wanted)}"
            )
    return entry.arguments


def _weights(path: Path, where: str, entry: NetworkEntry, default: WeightsSource) -> WeightsSource:
    if entry.seed is not None and entry.weights != "random":
        raise ConfigError(f'{where}: seed: only with weights = "random"')
    kind, colon, tag = (entry.weights or "").partition(":")
    of_files = {"weights_key": entry.weights_key, "weights_prefix": entry.weights_prefix}
    stated = [name for name, value in (of_files | {"weights_rename": entry.weights_rename or None}).items() if value]
    is_in_files = entry.weights is None and isinstance(default, CheckpointFile)
    if stated and not is_in_files and (entry.weights in (None, "random", "embedded", "hub") or kind == "hub"):
        raise ConfigError(f"{where}: {stated[0]}: only with weights in a file")
    if isinstance(default, CheckpointFile) and entry.weights is None:
        return CheckpointFile(default.path, entry.weights_key, entry.weights_prefix, entry.weights_rename)
    if entry.weights is None:
        return default
    if isinstance(default, Built) and (entry.weights == "embedded" or kind == "hub"):
        raise ConfigError(
            f'{where}: weights: {quoted(entry.weights)} has none for own code; expected a file, a folder or "random"'
        )
    if entry.weights == "random":
        return Random(entry.seed or 0)
    if entry.weights == "embedded":
        return Embedded()
    if kind == "hub" and (tag or not colon):
        inherited = default if isinstance(default, Hub) else Hub()
        return Hub(tag) if tag else inherited
    file = _beside(path, f"{where}: weights", entry.weights)
    if file.name.endswith(EXPORTED_SUFFIX):
        raise ConfigError(f"{where}: weights: {NOT_EXPORTED}")
    if not is_folder(file):
        if not file.name.endswith(CHECKPOINT_SUFFIXES):
            raise ConfigError(
                f'{where}: weights: {quoted(entry.weights)} is neither "hub", "hub:TAG", "embedded", "random", a '
                f"folder, nor a file that ends with one of {', '.join(CHECKPOINT_SUFFIXES)}"
            )
        if not is_file(file):
            raise ConfigError(f"{where}: weights: there is no file {printable(file)}")
    return CheckpointFile(file, entry.weights_key, entry.weights_prefix, entry.weights_rename)


def _labels(path: Path, where: str, labels: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    if not isinstance(labels, str):
        return labels
    return read_labels(_beside(path, f"{where}: labels", labels), f"{where}: labels")


def _check(path: Path, where: str, entry: CheckEntry | None) -> Check | None:
    if entry is None:
        return None
    if (entry.probabilities is None) == (entry.logits is None):
        raise ConfigError(f"{where}: check: expected probabilities or logits, one of the two")
    image = _beside(path, f"{where}: check.image", entry.image)
    if not is_file(image):
        raise ConfigError(f"{where}: check.image: there is no file {printable(image)}")
    if entry.logits is not None:
        return Check(image, "logits", entry.logits, entry.tolerance)
    return Check(image, "probabilities", entry.probabilities or (), entry.tolerance)


def _preprocessing(where: str, entry: PreprocessingEntry, spec: NetworkSpec) -> Preprocessing | None:
    """The stated fields over the architecture's own view; None where nothing is stated anywhere."""
    stated: dict[str, Any] = entry.model_dump(exclude_none=True, exclude={"channels"})
    if spec.library == "transformers":
        return None  # its files say the rest when it is loaded
    if entry.channels == 1 and spec.library == "torchvision":
        raise ConfigError(
            f"{where}: preprocessing.channels: torchvision builds networks of three channels only; timm builds them "
            "of one, and so does your own code (python:FILE.py:NAME)"
        )
    if spec.library == "python":
        if missing := [name for name in ("input_size", "mean", "std") if name not in stated]:
            raise ConfigError(
                f"{where}: preprocessing: own code states none, so {', '.join(missing)} must be stated here"
            )
        view = Preprocessing(resize_size=max(stated["input_size"]))
    elif not stated and entry.channels is None:
        return spec.preprocessing
    else:
        try:
            view = spec.preprocessing or library_preprocessing(spec)
        except NetworkError as error:
            raise ConfigError(f"{where}: {error}") from error
        if entry.input_size is not None:
            view = with_input_size(view, entry.input_size)
    channels = entry.channels or (len(stated["mean"]) if spec.library == "python" else view.channels)
    if channels not in (1, 3):
        raise ConfigError(
            f"{where}: preprocessing.mean: expected one number, for grey, or three, for colours, not {channels}"
        )
    view = replace(view, **stated)
    for name, numbers in (("mean", view.mean), ("std", view.std)):
        if len(numbers) != channels:
            wanted = "one number, that of the luminance," if channels == 1 else f"{channels} numbers"
            found = f"{len(numbers)} numbers" if len(numbers) > 1 else "one"
            raise ConfigError(
                f"{where}: preprocessing.{name}: expected {wanted} for channels = {channels}, not {found}"
                f"{'' if name in stated else ' of the architecture: state it'}"
            )
    if view.resize_size < max(view.input_size):
        raise ConfigError(
            f"{where}: preprocessing.resize_size: {view.resize_size} px is less than the input, "
            f"{view.input_size[0]} x {view.input_size[1]} px"
        )
    return view


def _overlay(base: Mapping[str, str] | None, stated: dict[str, str]) -> Mapping[str, str] | None:
    return {**(base or {}), **stated} if stated else base


def _beside(path: Path, where: str, name: str) -> Path:
    """A file named in the configuration: relative to it, not to where the service was started."""
    try:
        return (path.parent / Path(name).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, nobody's home, a null byte
        raise ConfigError(f"{where}: {printable(name)} is not a path: {printable(error)}") from error
