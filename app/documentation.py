"""Writes the table of settings from the class that reads them; docs/configuration.md holds it between two markers."""

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from app.settings import Settings

MARKER = "<!-- settings: `python -m app settings --write docs/configuration.md` -->"

_BOUNDS = (("ge", "from {}"), ("gt", "above {}"), ("le", "to {}"), ("lt", "below {}"))
_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", Path: "a path", str: "text"}


def settings_table() -> str:
    """All settings as a Markdown table: variable, default, values, meaning."""
    lines = ["| variable | default | values | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        cells = (f"`{variable(name)}`", _default(field), _values(field), _in_a_cell(field.description or ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{Settings.model_config.get('env_prefix', '')}{name}".upper()


def write_settings(page: Path) -> None:
    """Puts the table between the two markers of a page.

    Raises:
        ValueError: the page has not two of them.
    """
    text = page.read_text(encoding="utf-8")
    parts = text.split(MARKER)
    if len(parts) != 3:
        raise ValueError(f"{page} does not hold the line {MARKER} twice")
    page.write_text(MARKER.join((parts[0], f"\n{settings_table()}\n", parts[2])), encoding="utf-8")


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == ():
        return "none"
    return f"`{','.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _values(field: FieldInfo) -> str:
    kind = field.annotation
    if get_origin(kind) is UnionType:
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list with commas"
    bounds = [
        words.format(getattr(constraint, bound))
        for bound, words in _BOUNDS
        for constraint in field.metadata
        if hasattr(constraint, bound)
    ]
    return " ".join((_KINDS[kind], *bounds))


def _in_a_cell(text: str) -> str:
    """Markdown would take a bar for the cell's end, and a name in angle brackets, outside of code, for a tag."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", r"\|"))
    return "".join(part if part.startswith("`") else part.replace("<", r"\<") for part in parts)
