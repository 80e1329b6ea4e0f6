"""Runs the examples of README and docs/examples.md against the service, as a reader would."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from testing.pictures import encoded, photograph
from testing.serving import ROOT, Service
from tests.tools import tool

ADDRESS = "http://127.0.0.1:8000"
PAGES = ("README.md", "docs/examples.md")
PHOTOGRAPHS = ("chelsea", "coffee", "rocket")
_LIMIT_S = 180


@dataclass(frozen=True, slots=True)
class Example:
    """A block of code of a page."""

    page: str
    heading: str
    number: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{Path(self.page).stem}:{re.sub(r'[^a-z]+', '-', self.heading.lower()).strip('-')}:{self.number}"


def examples(*languages: str) -> list[Example]:
    """The blocks of these languages that call the service."""
    found = []
    for page in PAGES:
        heading, number = "", 0
        text = (ROOT / page).read_text(encoding="utf-8")
        for title, language, code in re.findall(r"^#+ ([^\n]+)$|^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            heading, number = (title, 0) if title else (heading, number + 1)
            if language in languages and ADDRESS in code:
                found.append(Example(page, heading, number, language, code))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages say lies in the reader's folder."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "photos").mkdir()
    for name in PHOTOGRAPHS:
        (folder / "photos" / f"{name}.jpg").write_bytes(encoded(photograph(name), "JPEG", quality=90))
    shutil.copy(folder / "photos" / "chelsea.jpg", folder / "photo.jpg")
    return folder


def run(command: list[str], folder: Path) -> str:
    """Runs a command in the reader's folder, with no proxy between it and the service."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment | {"KEY": "none-is-needed-here"},
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("example", examples("sh"), ids=str)
def test_the_shell_examples_work(service: Service, folder: Path, example: Example) -> None:
    for name in ("curl", "jq"):
        tool(name, name)
    for name in written_by(example):
        (folder / name).unlink(missing_ok=True)
    run(["bash", "-euo", "pipefail", "-c", example.code.replace(ADDRESS, service.url)], folder)
    for name in written_by(example):
        check_written(folder / name)


def written_by(example: Example) -> set[str]:
    return set(re.findall(r"(?:-o|-D|>) (\w+\.\w+)", example.code))


def check_written(path: Path) -> None:
    """Whether a file of an example is what its name says."""
    if path.suffix == ".png":
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
    elif path.suffix == ".json":
        assert isinstance(json.loads(path.read_text()), dict)
    elif path.suffix == ".tsv":
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        assert [row[0] for row in rows] == [f"{name}.jpg" for name in sorted(PHOTOGRAPHS)]
        assert all((path.parent / "overlays" / f"{name}.png").is_file() for name in PHOTOGRAPHS)
    elif path.name == "headers.txt":
        assert {"x-request-id:", "server-timing:"} <= {
            line.split()[0] for line in path.read_text().splitlines() if line
        }
    else:
        assert path.stat().st_size > 0


@pytest.mark.parametrize("example", examples("python"), ids=str)
def test_the_python_examples_work(service: Service, folder: Path, example: Example) -> None:
    printed = run([sys.executable, "-W", "error", "-c", example.code.replace(ADDRESS, service.url)], folder)
    assert printed.strip()


def test_the_browser_example_works(service: Service, folder: Path) -> None:
    (example,) = examples("js")
    call = """
        import { File } from "node:buffer";
        import { readFile } from "node:fs/promises";
        const file = new File([await readFile("photo.jpg")], "photo.jpg");
        const { overlay, figures } = await explain(file, { method: "gradcam", layer: ["pre_gap", "last_conv"] });
        console.log(JSON.stringify([overlay.type, figures.method, figures.layer]));
    """
    code = example.code.replace(ADDRESS, service.url)
    assert json.loads(run([tool("node", "nodejs"), "--input-type=module", "--eval", code + call], folder)) == [
        "image/png",
        "gradcam",
        ["pre_gap", "last_conv"],
    ]


def test_the_patient_caller_waits_as_long_as_it_is_told(service: Service, folder: Path, monkeypatch: Any) -> None:
    example = next(example for example in examples("python") if "post_patiently" in example.code)
    monkeypatch.chdir(folder)
    written: dict[str, Any] = {}
    exec(example.code.replace(ADDRESS, service.url), written)  # noqa: S102
    waits: list[float] = []
    monkeypatch.setattr(written["time"], "sleep", waits.append)
    answers = iter([httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(503), httpx.Response(200)])
    with httpx.Client(transport=httpx.MockTransport(lambda _: next(answers)), base_url=service.url) as client:
        reply = written["post_patiently"](client, "/v1/explain")
    assert reply.status_code == 200
    assert waits == [7.0, 2]
