"""The OpenAPI document of the running service, its examples, and the page that shows it."""

import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from fastapi.openapi.models import OpenAPI

from app.imaging.formats import titles
from tests.api.asking import JSON
from tests.api.contract import CALLS, UPLOADS, nodes, resolve


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


def test_the_accepted_formats_are_those_of_the_decoder(document: dict[str, Any]) -> None:
    uploads = [schema["properties"]["image"] for name, schema in document["components"]["schemas"].items()
               if name.endswith("Form")]  # fmt: skip
    assert len(uploads) == len(UPLOADS)
    assert all(f"The file: {titles()}." in upload["description"] for upload in uploads)


def test_encodings_are_of_fields_that_there_are(document: dict[str, Any]) -> None:
    for path in UPLOADS:
        form = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert form["encoding"].keys() <= resolve(document, form["schema"]["$ref"])["properties"].keys()


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
