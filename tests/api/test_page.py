"""The files that the page is made of."""

import re
from pathlib import Path

import httpx
import pytest

from app.imaging.formats import FORMATS, titles

WEB = Path(__file__).parents[2] / "app" / "web"
FILES = sorted(str(path.relative_to(WEB)) for path in WEB.rglob("*") if path.is_file())
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}


def filled(name: str) -> str:
    """A file of the page with the accepted formats in the place of their marks."""
    media_types = ",".join(entry.media_type for entry in FORMATS.values())
    text = (WEB / name).read_text(encoding="utf-8")
    assert text.count("{{media_types}}") == text.count("{{formats}}") == 1
    return text.replace("{{media_types}}", media_types).replace("{{formats}}", titles())


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_served_with_its_type_and_kept_until_it_changes(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 200
    assert answer.text == filled(name) if name == "index.html" else answer.content == (WEB / name).read_bytes()
    assert answer.headers["content-type"] == TYPES[Path(name).suffix]
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    # Browsers would apply it to the page that they kept.
    assert "content-security-policy" not in again.headers


@pytest.mark.parametrize(
    "name", ["none.js", "", "examples", "../main.py", "%2e%2e/main.py", "..%2fmain.py", "/etc/passwd", "a%00b"]
)
def test_nothing_else_is_served(client: httpx.Client, name: str) -> None:
    answer = client.get(httpx.URL(str(client.base_url), raw_path=f"/page/{name}".encode()))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_page_runs_no_scripts_but_its_own(client: httpx.Client) -> None:
    answer = client.get("/", headers={"Accept": "text/html"})
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    assert "<script>" not in answer.text
    assert not re.search(r"\son\w+=", answer.text)


@pytest.mark.parametrize("name", [name for name in FILES if Path(name).suffix != ".jpg"])
def test_no_file_names_an_outside_address(name: str) -> None:
    addresses = re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}[^\s\"']*", (WEB / name).read_text(encoding="utf-8"))
    assert [address for address in addresses if not address.startswith("http://www.w3.org/")] == []


def test_every_file_is_used() -> None:
    texts = "".join((WEB / name).read_text(encoding="utf-8") for name in FILES if Path(name).suffix != ".jpg")
    unused = [name for name in FILES if name != "index.html" and Path(name).name not in texts]
    assert unused == []
