"""Reads docs/api.md, and the OpenAPI document of a service, into forms that can be held against each other."""

import json
import re
from collections.abc import Iterator
from typing import Any

from app.imaging.colour import colormap_names
from testing.serving import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
UPLOADS = ("/v1/explain", "/v1/compare", "/v1/predict")
# Calls of the KServe V1 protocol, and the operations whose fields they take and whose replies they list.
CALLS = {"/v1/models/{name}:explain": "/v1/explain", "/v1/models/{name}:predict": "/v1/predict"}


def table(heading: str, first_column: str) -> list[dict[str, str]]:
    """The rows of the table that starts with a column, in the section under a heading."""
    section = re.split(r"^##+ ", PAGE.split(f"## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = iter(section.splitlines())
    header = next(line for line in lines if line.startswith(f"| {first_column} |"))
    names = [cell.strip() for cell in header.strip("|").split("|")]
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")), strict=True)))
    return rows


def words(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def documented_fields(path: str) -> dict[str, dict[str, str]]:
    """The rows of a path's table by field; that of a comparison says only how it differs from an explanation."""
    rows = {words(row["field"])[0]: row for row in table(f"POST {path}", "field")}
    if path != "/v1/compare":
        return rows
    common = documented_fields("/v1/explain")
    for name, row in rows.items():
        row["values"] = row["values"].replace("those of `/v1/explain`", common[name]["values"])
    return common | rows


def documented_default(row: dict[str, str], *, repeated: bool) -> Any:
    cell = row["default"]
    if cell == "the first configured":
        return "tf_efficientnet_lite0"
    if repeated:
        return words(cell)
    if words(cell):
        return words(cell)[0]
    return None if cell in ("none", "the network's") else json.loads(cell)


def documented_values(name: str, cell: str) -> Any:
    """What a cell of the column `values` says, in the form that `values_of` gives to a schema."""
    number = re.search(r"(an even|a whole)? ?number (?:from (\S+) to (.+)|above (\d+))$", cell)
    if cell == "true or false":
        return "boolean"
    if name in ("model", "colormap", "layer", "target"):
        return name, words(cell)
    if number is None:
        return set(words(cell))
    kind, lowest, highest, above = number.groups()
    most = None if highest in (None, "the number of classes") else int(highest)
    return {
        "type": "integer" if kind else "number",
        "lowest": int(lowest) if lowest else None,
        "highest": most,
        "above": int(above) if above else None,
        "even": kind == "an even",
        "zero": cell.startswith("0, or"),
    }


def shown_in_json(place: int) -> Any:
    """An example of the page."""
    return json.loads(PAGE.split("```json\n")[place].split("```", 1)[0])


def fields_of(document: dict[str, Any], path: str, content_type: str) -> dict[str, Any]:
    content = document["paths"][path]["post"]["requestBody"]["content"]
    properties = resolve(document, content[content_type]["schema"]["$ref"])["properties"]
    return {name: main_kind(schema) for name, schema in properties.items() if name != "image"}


def main_kind(schema: dict[str, Any]) -> dict[str, Any]:
    """A field without what else JSON may say for it: the only value of a list, or null."""
    kinds = [kind for kind in schema.get("anyOf", []) if "$ref" in kind or kind.get("type", "null") != "null"]
    return schema | kinds[0] if kinds else schema


def resolve(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/")
    found = document
    for name in reference[2:].split("/"):
        found = found[name.replace("~1", "/").replace("~0", "~")]
    return found


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON document."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from nodes(child)


def values_of(name: str, schema: dict[str, Any]) -> Any:
    """What a schema takes; names with more values than a table can hold are checked here."""
    if schema.get("type") == "boolean":
        return "boolean"
    if name == "model":
        assert schema["enum"] == ["tf_efficientnet_lite0", "small", "vit"]
        return name, []
    if name == "colormap":
        assert schema["enum"] == list(colormap_names())
        return name, []
    if name == "layer":
        assert (schema["items"]["type"], schema["minItems"], schema["maxItems"]) == ("string", 1, 8)
        return name, ["pre_gap", "last_conv", "last_norm"]
    if name == "target":
        # In JSON an index may be a number.
        kinds = schema["items"].get("anyOf", [schema["items"]])
        assert kinds in ([{"type": "string"}], [{"type": "string"}, {"type": "integer"}])
        assert (schema["minItems"], schema["maxItems"]) == (1, 16)
        return name, ["predicted", "least-likely"]
    if schema["type"] in ("integer", "number"):
        lowest = schema.get("minimum")
        zero = schema.get("anyOf") == [{"const": 0}, {"minimum": 16}]
        return {
            "type": schema["type"],
            "lowest": 16 if zero else lowest,
            "highest": schema.get("maximum"),
            "above": schema.get("exclusiveMinimum"),
            "even": schema.get("multipleOf") == 2,
            "zero": zero and lowest == 0,
        }
    listed = schema.get("items", schema)
    return set(listed["enum"]) if "enum" in listed else {listed["const"]}
