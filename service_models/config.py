"""Reads the TOML file of further networks: a user's checkpoints, other weights, other layers."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service_models.errors import ConfigError, NetworkError
from service_models.preprocessing import library_preprocessing, with_input_size
from service_models.resolve import NAME_PATTERN, library_spec, resolve
from service_models.spec import (
    Checkpoint,
    Embedded,
    Hub,
    Interpolation,
    NetworkSpec,
    Preprocessing,
    Random,
    WeightsSource,
)

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

_Side = Annotated[int, Field(ge=1, le=4096)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _PreprocessingEntry(_Strict):
    input_size: tuple[_Side, _Side] | None = None
    resize_size: _Side | None = None
    interpolation: Interpolation | None = None
    mean: tuple[_Finite, _Finite, _Finite] | None = None
    std: tuple[_Positive, _Positive, _Positive] | None = None

    @field_validator("input_size", mode="before")
    @classmethod
    def _one_side_means_a_square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value


class _LayersEntry(_Strict):
    pre_gap: _Text | None = None
    last_conv: _Text | None = None
    last_norm: _Text | None = None


class _NetworkEntry(_Strict):
    architecture: _Text | None = None
    weights: _Text | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    classes: Annotated[int, Field(ge=2)] | None = None
    labels: _Text | tuple[_Text, ...] | None = None
    preprocessing: _PreprocessingEntry = _PreprocessingEntry()
    layers: _LayersEntry = _LayersEntry()


class _File(_Strict):
    networks: dict[str, _NetworkEntry] = {}


def read_config(path: Path) -> dict[str, NetworkSpec]:
    """Reads the networks of a configuration file.

    An entry `[networks.NAME]` may state `architecture` ("timm:resnet50", "torchvision:resnet50", or a bare
    name as requests use it; left out, the entry's own name), `weights` (a path relative to the file, "hub",
    "hub:TAG", "embedded" or "random"), `seed`, `classes`, `labels` (a file with one name a line, or a list),
    and the tables `preprocessing` and `layers`. What it leaves out is as the architecture has it; `classes`
    is then the number of labels.

    Args:
        path: the TOML file.

    Returns:
        The networks by name, in the order of the file.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong; the message names file, entry and field.
    """
    try:
        parsed = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no TOML: {error}") from error
    except ValidationError as error:
        raise ConfigError(_describe(path, error)) from error
    return {name: _specify(path, name, entry) for name, entry in parsed.networks.items()}


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


def _specify(path: Path, name: str, entry: _NetworkEntry) -> NetworkSpec:
    where = f"{path}: [networks.{name}]"
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigError(f"{where}: a name takes letters, digits, '_', '.' and '-' only")
    try:
        spec = replace(_base(name, entry.architecture), name=name)
    except NetworkError as error:
        raise ConfigError(f"{where}: architecture: {error}") from error
    labels = _labels(path, where, entry.labels)
    spec = replace(
        spec,
        weights=_weights(path, where, entry, spec.weights),
        classes=entry.classes or (len(labels) if labels else spec.classes),
        labels=labels or spec.labels,
        layers=_overlay(spec.layers, entry.layers.model_dump(exclude_none=True)),
    )
    if spec.labels and spec.classes and len(spec.labels) != spec.classes:
        raise ConfigError(f"{where}: labels: {len(spec.labels)} names, but classes = {spec.classes}")
    return replace(spec, preprocessing=_preprocessing(where, entry.preprocessing, spec))


def _base(name: str, architecture: str | None) -> NetworkSpec:
    """The network that an entry starts from."""
    wanted = architecture or name
    library, colon, rest = wanted.partition(":")
    return library_spec(name, library, rest) if colon else resolve(wanted)


def _weights(path: Path, where: str, entry: _NetworkEntry, default: WeightsSource) -> WeightsSource:
    if entry.seed is not None and entry.weights != "random":
        raise ConfigError(f'{where}: seed: only with weights = "random"')
    kind, colon, tag = (entry.weights or "").partition(":")
    if entry.weights is None:
        return default
    if entry.weights == "random":
        return Random(entry.seed or 0)
    if entry.weights == "embedded":
        return Embedded()
    if kind == "hub" and (tag or not colon):
        inherited = default if isinstance(default, Hub) else Hub()
        return Hub(tag) if tag else inherited
    file = _beside(path, entry.weights)
    if file.suffix not in CHECKPOINT_SUFFIXES:
        raise ConfigError(
            f'{where}: weights: {entry.weights!r} is neither "hub", "hub:TAG", "embedded", "random" nor '
            f"a file that ends with one of {', '.join(CHECKPOINT_SUFFIXES)}"
        )
    if not file.is_file():
        raise ConfigError(f"{where}: weights: there is no file {file}")
    return Checkpoint(file)


def _labels(path: Path, where: str, labels: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    if not isinstance(labels, str):
        return labels
    file = _beside(path, labels)
    try:
        lines = file.read_text(encoding="utf-8").rstrip().splitlines()
    except OSError as error:
        raise ConfigError(f"{where}: labels: {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: labels: {file} is not UTF-8: {error}") from error
    names = tuple(line.strip() for line in lines)
    if not names or not all(names):
        raise ConfigError(f"{where}: labels: {file} has an empty line; it takes one name a line")
    return names


def _preprocessing(where: str, entry: _PreprocessingEntry, spec: NetworkSpec) -> Preprocessing | None:
    """The stated fields over the architecture's own view; None where nothing is stated anywhere."""
    stated: dict[str, Any] = entry.model_dump(exclude_none=True)
    if not stated:
        return spec.preprocessing
    try:
        view = spec.preprocessing or library_preprocessing(spec)
    except NetworkError as error:
        raise ConfigError(f"{where}: {error}") from error
    if entry.input_size is not None:
        view = with_input_size(view, entry.input_size)
    view = replace(view, **stated)
    if view.resize_size < max(view.input_size):
        raise ConfigError(
            f"{where}: preprocessing.resize_size: {view.resize_size} px is less than the input, "
            f"{view.input_size[0]} x {view.input_size[1]} px"
        )
    return view


def _overlay(base: Mapping[str, str] | None, stated: dict[str, str]) -> Mapping[str, str] | None:
    return {**(base or {}), **stated} if stated else base


def _beside(path: Path, name: str) -> Path:
    """A file named in the configuration: relative to it, not to where the service was started."""
    return (path.parent / Path(name).expanduser()).resolve()


def _describe(path: Path, error: ValidationError) -> str:
    """Every fault of the file on its own line: file, entry, field, what is wrong, what it takes."""
    lines = []
    for fault in error.errors(include_url=False):
        head, *fields = [str(part) for part in fault["loc"]] or ["file"]
        entry = f"[{head}.{fields.pop(0)}]" if head == "networks" and fields else f"[{head}]"
        field = ".".join(part for part in fields if part not in ("str", "tuple[str, ...]"))
        # Not the value itself where it is a table: it may be long.
        given = "" if isinstance(fault["input"], (dict, list)) else f", not {fault['input']!r}"
        lines.append(f"{path}: {entry}: {field + ': ' if field else ''}{fault['msg']}{given}")
    return "\n".join(lines)
