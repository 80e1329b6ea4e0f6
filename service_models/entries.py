"""The TOML file of further networks as it is written: which keys there are, and what each takes."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from service_models.errors import ConfigError
from service_models.files import printable, read_bounded
from service_models.labels import LONGEST_LABEL
from service_models.scores import ScoreName
from service_models.spec import Fit, Interpolation, OutputKind

_MOST_BYTES = 2**20
# A dotted key of thousands of parts takes the parser minutes; three parts are all that an entry can use.
_DEEP_KEY = re.compile(r"""(?:\.[ \t]*(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*){100}""")
_MOST_FAULTS = 10
_MOST_CLASSES = 1_000_000
# What pydantic calls the two kinds of `labels`.
_BRANCHES = ("constrained-str", "tuple[constrained-str, ...]")

_Side = Annotated[int, Field(ge=1, le=4096)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# What messages and logs say: no line breaks in it, and an end.
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=_ONE_LINE)]
_Architecture = Annotated[str, Field(min_length=1, max_length=4096, pattern=_ONE_LINE)]
_Beginning = Annotated[str, Field(max_length=200)]
_PathText = Annotated[str, Field(min_length=1, max_length=4096)]
_Label = Annotated[str, Field(min_length=1, max_length=LONGEST_LABEL)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessingEntry(_Strict):
    """How pictures come to the network."""

    input_size: tuple[_Side, _Side] | None = None
    resize_size: _Side | None = None
    interpolation: Interpolation | None = None
    mean: Annotated[tuple[_Finite, ...], Field(min_length=1, max_length=3)] | None = None
    std: Annotated[tuple[_Positive, ...], Field(min_length=1, max_length=3)] | None = None
    channels: Literal[1, 3] | None = None
    max_value: Annotated[int, Field(ge=1, le=65535)] | None = None
    fit: Fit | None = None

    @field_validator("input_size", mode="before")
    @classmethod
    def _one_side_means_a_square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_number_means_one_channel(cls, value: object) -> object:
        return (value,) if isinstance(value, int | float) else value


class LayersEntry(_Strict):
    """Named layers and their paths."""

    pre_gap: _Name | None = None
    last_conv: _Name | None = None
    last_norm: _Name | None = None


class CheckEntry(_Strict):
    """What the operator's own code gave for a picture."""

    image: _PathText
    probabilities: tuple[_Finite, ...] | None = None
    logits: tuple[_Finite, ...] | None = None
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01

    @field_validator("probabilities", "logits", mode="before")
    @classmethod
    def _one_number_means_a_single_logit(cls, value: object) -> object:
        return (value,) if isinstance(value, int | float) else value


class NetworkEntry(_Strict):
    """One network."""

    architecture: _Architecture | None = None
    arguments: dict[_Name, Any] = {}
    output: _Name | None = None
    output_is: OutputKind | None = None
    weights: _PathText | None = None
    weights_key: _Name | None = None
    weights_prefix: _Name | None = None
    weights_rename: dict[_Name, _Beginning] = {}
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    classes: Annotated[int, Field(ge=1, le=_MOST_CLASSES)] | None = None
    scores: ScoreName = "softmax"
    labels: _PathText | tuple[_Label, ...] | None = None
    preprocessing: PreprocessingEntry = PreprocessingEntry()
    layers: LayersEntry = LayersEntry()
    check: CheckEntry | None = None


class _File(_Strict):
    networks: dict[str, NetworkEntry] = {}


def read_entries(path: Path) -> dict[str, NetworkEntry]:
    """The entries of a file by the names of their networks, in its order.

    Raises:
        ConfigError: it cannot be read, or a key is wrong; the message names file, entry and key.
    """
    try:
        return _File.model_validate(_parse(path)).networks
    except ValidationError as error:
        raise ConfigError(_describe(path, error)) from error


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = read_bounded(path, _MOST_BYTES).decode("utf-8")
        if _DEEP_KEY.search(text):
            raise ConfigError(f"{printable(path)}: has a key of over 100 parts")
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"{printable(path)}: its lists or tables are nested too deeply") from error
    except ValueError as error:  # no TOML, no UTF-8, or a number of thousands of digits
        raise ConfigError(f"{printable(path)}: is not valid TOML: {printable(error)}") from error


def _describe(path: Path, error: ValidationError) -> str:
    """Every fault of the file on its own line: file, entry, field, what is wrong, what it takes."""
    faults = error.errors(include_url=False)
    lines = [f"{printable(path)}: {_line(fault)}" for fault in faults[:_MOST_FAULTS]]
    if more := len(faults) - len(lines):
        lines.append(f"{printable(path)}: {more} more faults of these kinds")
    return "\n".join(lines)


def _line(fault: ErrorDetails) -> str:
    head, *fields = [printable(part) for part in fault["loc"]] or ["file"]
    entry = f"[{head}.{fields.pop(0)}]" if head == "networks" and fields else f"[{head}]"
    field = ".".join(part for part in fields if part not in _BRANCHES)
    # Not the value itself where it is a table: it may be long.
    given = "" if isinstance(fault["input"], (dict, list)) else f", not {quoted(fault['input'])}"
    return f"{entry}: {field + ': ' if field else ''}{printable(fault['msg'])}{given}"


def quoted(value: object) -> str:
    """A value as messages show it."""
    return f"'{printable(value)}'" if isinstance(value, str) else printable(value)
