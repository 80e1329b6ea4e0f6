"""Holds docs/api.md against the running service: its paths, fields, replies, errors and examples."""

import json
import re
from typing import Any

import httpx
import pytest

from app.cam.methods import METHODS
from app.cam.utilities import UTILITIES
from app.errors import ERRORS
from tests.api.calls import call, instance
from tests.api.contract import (
    CALLS,
    PAGE,
    UPLOADS,
    documented_default,
    documented_fields,
    documented_values,
    fields_of,
    main_kind,
    resolve,
    shown_in_json,
    table,
    values_of,
    words,
)

# What the router answers itself, before any operation.
OF_NO_OPERATION = {(405, "method_not_allowed")}


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


def test_the_methods_and_utilities_of_the_page_are_those_of_the_engine() -> None:
    rows = documented_fields("/v1/explain")
    assert words(rows["method"]["values"]) == list(METHODS)
    names = [name for utility in UTILITIES.values() for name in dict.fromkeys((utility.name, utility.alias))]
    assert words(rows["utility"]["values"]) == names


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
    assert documented("Requests in flight", "key of a request") == list(schemas["ProgressReply"]["properties"])
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


def shape(value: Any) -> str:
    """Which keys and types a reply has, in their order."""

    def outline(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: outline(child) for name, child in value.items()}
        return [outline(value[0])] if isinstance(value, list) and value else type(value)

    return json.dumps(outline(value), default=str)
