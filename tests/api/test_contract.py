"""Holds docs/api.md against the running service: its OpenAPI document, its errors, its examples."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from fastapi.openapi.models import OpenAPI

from app.cam.methods import METHODS
from app.cam.utilities import UTILITIES
from app.errors import ERRORS
from app.imaging.colour import colormap_names
from tests.api.asking import JSON
from tests.api.calls import call, instance
from tests.api.serving import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
UPLOADS = ("/v1/explain", "/v1/compare", "/v1/predict")
# Calls of the KServe V1 protocol, and the operations whose fields they take and whose replies they list.
CALLS = {"/v1/models/{name}:explain": "/v1/explain", "/v1/models/{name}:predict": "/v1/predict"}
# What the router answers itself, before any operation.
OF_NO_OPERATION = {(405, "method_not_allowed")}


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


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    loaded = client.get("/openapi.json").json()
    assert isinstance(loaded, dict)
    return loaded


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


def test_the_openapi_document_is_one(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPI.model_validate(document)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    identifiers = [operation["operationId"] for operation in operations]
    assert len(set(identifiers)) == len(identifiers)
    for path, item in document["paths"].items():
        for operation in item.values():
            declared = {entry["name"] for entry in operation.get("parameters", []) if entry["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d", status)
                assert response["description"]


def test_every_reference_of_the_openapi_document_leads_somewhere(document: dict[str, Any]) -> None:
    references = [node["$ref"] for node in nodes(document) if "$ref" in node]
    assert references
    for reference in references:
        assert isinstance(resolve(document, reference), dict)


def test_encodings_are_of_fields_that_there_are(document: dict[str, Any]) -> None:
    for path in UPLOADS:
        form = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert form["encoding"].keys() <= resolve(document, form["schema"]["$ref"])["properties"].keys()


def test_every_path_is_documented_in_both_directions(document: dict[str, Any]) -> None:
    ours = {(row["method"], words(row["path"])[0]) for row in table("Paths", "method")}
    theirs = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert ours == theirs


@pytest.mark.parametrize("content_type", ["multipart/form-data", "application/json"])
@pytest.mark.parametrize("path", UPLOADS)
def test_every_field_is_documented_in_both_directions(document: dict[str, Any], path: str, content_type: str) -> None:
    rows = documented_fields(path)
    schemas = fields_of(document, path, content_type)
    assert rows.keys() == schemas.keys()
    for name, row in rows.items():
        repeated = "may be repeated" in row["values"]
        assert repeated == (schemas[name].get("type") == "array"), name
        assert documented_default(row, repeated=repeated) == schemas[name].get("default"), name
        assert documented_values(name, row["values"]) == values_of(name, schemas[name]), name
        assert schemas[name]["description"]


@pytest.mark.parametrize("path", CALLS)
def test_a_call_takes_the_same_fields_but_the_model(document: dict[str, Any], path: str) -> None:
    (content_type,) = document["paths"][path]["post"]["requestBody"]["content"]
    assert content_type == "application/json"
    body = fields_of(document, path, content_type)
    assert list(body) == [words(row["key of a call"])[0] for row in table("KServe V1", "key of a call")]
    assert (body["instances"]["minItems"], body["instances"]["maxItems"]) == (1, 64)
    expected = fields_of(document, CALLS[path], content_type)
    del expected["model"]
    parameters = resolve(document, body["parameters"]["$ref"])["properties"]
    assert {name: main_kind(schema) for name, schema in parameters.items()} == expected


def test_the_picture_of_a_reply_is_chosen_in_the_query(document: dict[str, Any]) -> None:
    (parameter,) = document["paths"]["/v1/explain"]["post"]["parameters"]
    assert (parameter["in"], parameter["name"], parameter["required"]) == ("query", "image", False)
    sentence = re.search(r"the query field `image`\s+takes (.*?)\.", PAGE, flags=re.DOTALL)
    assert sentence
    assert words(sentence[1]) == parameter["schema"]["enum"]
    assert parameter["schema"]["default"] == words(sentence[1])[0]


def documented_fields(path: str) -> dict[str, dict[str, str]]:
    """The rows of a path's table by field; that of a comparison says only how it differs from an explanation."""
    rows = {words(row["field"])[0]: row for row in table(f"POST {path}", "field")}
    if path != "/v1/compare":
        return rows
    common = documented_fields("/v1/explain")
    del common["include"]
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
    return None if cell == "none" else json.loads(cell)


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


def test_the_methods_and_utilities_of_the_page_are_those_of_the_engine() -> None:
    rows = documented_fields("/v1/explain")
    assert words(rows["method"]["values"]) == list(METHODS)
    assert words(rows["utility"]["values"]) == list(UTILITIES)


def test_what_each_method_takes_is_documented_in_both_directions() -> None:
    rows = table("The methods and what they take", "method")
    documented = {method: set(words(row["parameters"])) for row in rows for method in words(row["method"])}
    assert documented == {method.name: set(method.parameters) for method in METHODS.values()}
    assert all(row["takes besides"] for row in rows)


def test_every_key_of_a_reply_is_documented_in_both_directions(document: dict[str, Any]) -> None:
    def documented(heading: str, first_column: str) -> list[str]:
        return [key for row in table(heading, first_column) for key in words(row[first_column])]

    schemas = document["components"]["schemas"]
    reply = documented("The reply in JSON", "key")
    assert sorted(reply) == sorted(schemas["ExplainReply"]["properties"])
    explanation = documented("The reply in JSON", "key of an explanation")
    assert sorted(explanation) == sorted(schemas["ExplanationReply"]["properties"])
    assert documented("Fidelity", "key of `fidelity`") == list(schemas["FidelityReply"]["properties"])
    comparison = documented("POST /v1/compare", "key of a comparison")
    assert set(reply) | set(comparison) == set(schemas["CompareReply"]["properties"])
    assert set(comparison) - set(reply) == {"sheet"}


def test_every_error_is_documented_in_both_directions(document: dict[str, Any]) -> None:
    rows = {(int(row["status"]), words(row["code"])[0]) for row in table("Errors", "status")}
    assert rows == {(error.status, error.code) for error in ERRORS}
    published = {
        (int(status), code)
        for item in document["paths"].values()
        for operation in item.values()
        for status, response in operation["responses"].items()
        if int(status) >= 400
        for code in re.findall(r"^`(\w+)`:", response["description"], flags=re.MULTILINE)
    }
    assert published == rows - OF_NO_OPERATION


@pytest.mark.parametrize("path", UPLOADS)
def test_the_example_of_the_page_works(client: httpx.Client, document: dict[str, Any], path: str) -> None:
    example = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    response = client.post(path, json=example)
    assert response.status_code == 200, response.text
    schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert list(response.json()) == list(resolve(document, schema["$ref"])["properties"])


@pytest.mark.parametrize("path", CALLS)
def test_the_example_of_a_call_works(client: httpx.Client, document: dict[str, Any], path: str) -> None:
    operation = document["paths"][path]["post"]
    (name,) = operation["parameters"]
    response = client.post(
        path.format(name=name["example"]), json=operation["requestBody"]["content"]["application/json"]["example"]
    )
    assert response.status_code == 200, response.text
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    ((key, listed),) = resolve(document, schema["$ref"])["properties"].items()
    alone = document["paths"][CALLS[path]]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert listed["items"] == alone
    (reply,) = response.json()[key]
    assert list(reply) == list(resolve(document, alone["$ref"])["properties"])


def test_what_stands_in_a_path_has_an_example_that_is_there(client: httpx.Client, document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        if "get" in item and "{" in path:
            examples = {entry["name"]: entry["example"] for entry in item["get"]["parameters"]}
            assert client.get(path.format(**examples)).status_code == 200, path


@pytest.mark.parametrize(("path", "place"), [("/v1/explain", 1), ("/v1/compare", 2)])
def test_the_examples_of_the_docs_have_the_keys_of_the_reply(
    client: httpx.Client, chelsea: bytes, path: str, place: int
) -> None:
    reply = client.post(path, content=chelsea, headers={"content-type": "image/png"}).json()
    assert shape(shown_in_json(place)) == shape(reply)


def test_the_example_of_a_call_in_the_docs_has_the_keys_of_the_reply(client: httpx.Client, chelsea: bytes) -> None:
    shown = shown_in_json(3)
    replies = call(client, "predict", [instance(chelsea)] * 2, top_k=1)
    assert shape(shown) == shape({"predictions": replies})
    assert len(shown["predictions"]) == len(replies)


def shown_in_json(place: int) -> Any:
    """An example of the page."""
    return json.loads(PAGE.split("```json\n")[place].split("```", 1)[0])


def shape(value: Any) -> str:
    """Which keys and types a reply has, in their order."""

    def outline(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: outline(child) for name, child in value.items()}
        return [outline(value[0])] if isinstance(value, list) and value else type(value)

    return json.dumps(outline(value), default=str)


class Links(HTMLParser):
    """Everything that a page loads or links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - its interface
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_api_page_loads_nothing_from_other_hosts(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    links = Links()
    links.feed(page.text)
    assert len(links.found) >= 3
    assert "//" not in re.sub(r"(?m)//.*$|<!--.*?-->", "", page.text.replace("://", "§"))
    assert "§" not in page.text.replace("://", "§")
    for link in links.found:
        address = urljoin(str(page.url), link)
        assert address.startswith(str(client.base_url))
        asset = client.get(address)
        assert asset.status_code == 200
        assert asset.content


def test_a_document_of_json_is_what_json_says(client: httpx.Client) -> None:
    """Errors are sent as the document says: JSON with exactly the keys of `ErrorReply`."""
    response = client.post("/v1/explain", content=b"{", headers=JSON)
    schema = client.get("/openapi.json").json()["components"]["schemas"]["ErrorReply"]
    assert list(response.json()) == list(schema["properties"])
    assert response.headers["content-type"] == "application/json"
