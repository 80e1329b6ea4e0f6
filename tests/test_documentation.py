"""Holds the pages against what they describe: settings, methods, networks, the TOML file, links, code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.__main__ import main
from app.cam.methods import METHODS
from app.cam.utilities import UTILITIES
from app.documentation import MARKER, settings_table, variable, write_settings
from app.imaging.formats import FORMATS
from app.settings import Settings
from service_models import CATALOGUE
from service_models.config import read_config
from service_models.entries import CheckEntry, LayersEntry, NetworkEntry, PreprocessingEntry
from service_models.spec import Hub

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE, CONFIGURATION, METHODS_PAGE, NETWORKS = (
    ROOT / "docs" / f"{name}.md" for name in ("architecture", "configuration", "methods", "networks")
)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def rows(page: Path, first_column: str) -> Iterator[dict[str, str]]:
    """The rows of every table of a page that starts with a column."""
    header: list[str] = []
    for line in read(page).splitlines():
        # A bar inside a cell is escaped, or stands in mathematics, which the first columns do not have.
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if not cells:
            header = []
        elif not header:
            header = cells
        elif header[0] == first_column and not set("".join(cells)) <= {"-", ":"}:
            yield dict(zip(header, cells, strict=True))


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


def test_every_file_and_class_of_the_architecture_exists() -> None:
    named = set(words(read(ARCHITECTURE)))
    paths = {name for name in named if "/" in name.strip("/") and not name.startswith("/") and " " not in name}
    classes = {name for name in named if re.fullmatch(r"[A-Z][a-z]\w+", name)}
    assert len(paths) > 60
    assert len(classes) > 60
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    code = "\n".join(read(path) for room in ("app", "service_models") for path in (ROOT / room).rglob("*.py"))
    assert sorted(classes - set(re.findall(r"^class (\w+)", code, re.MULTILINE))) == []


def test_the_architecture_names_every_carrier_once() -> None:
    carriers = re.findall(r"\*\*`(\w+)`", read(ARCHITECTURE).split("## The rooms")[0])
    assert len(carriers) == len(set(carriers)) > 40


def test_the_table_of_settings_is_the_generated_one() -> None:
    assert read(CONFIGURATION).split(MARKER)[1].strip() == settings_table(), "run the command of the marker"


def test_every_setting_stands_in_the_table_with_its_default_and_what_it_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["settings"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [words(line)[0] for line in lines] == [f"CAM_{name.upper()}" for name in Settings.model_fields]
    table = {words(line)[0]: [cell.strip() for cell in line.split(" | ")] for line in lines}
    assert table["CAM_PORT"][1:3] == ["`8000`", "a whole number from 0 to 65535"]
    assert table["CAM_TIMEOUT_S"][1:3] == ["`120`", "a number above 0"]
    assert table["CAM_TRUNK"][1:3] == ["`auto`", "`auto`, `eager`, `compile`, `openvino`"]
    assert table["CAM_MODELS"][1:3] == ["`tf_efficientnet_lite0`", "a list with commas"]
    assert table["CAM_CONFIG"][1:3] == ["none", "a path"]
    assert table["CAM_CORS_ORIGINS"][1] == "none"
    # A browser would take it for a tag.
    assert r"\<network>.safetensors" in table["CAM_WEIGHTS_DIR"][3]


def test_writing_the_table_leaves_the_rest_of_a_page_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{MARKER}\nold\n{MARKER}\n\nafter\n")
    assert main(["settings", "--write", str(page)]) == 0
    assert page.read_text() == f"before\n\n{MARKER}\n{settings_table()}\n{MARKER}\n\nafter\n"
    (tmp_path / "other.md").write_text("no marker")
    with pytest.raises(ValueError, match=r"other\.md does not hold"):
        write_settings(tmp_path / "other.md")
    assert main(["settings", "--write", str(tmp_path / "missing.md")]) == 1


def test_every_method_has_one_row_with_its_sources() -> None:
    found = {words(row["method"])[0]: row for row in rows(METHODS_PAGE, "method") if "attribution" in row}
    assert found.keys() == METHODS.keys()
    for name, row in found.items():
        for source in re.findall(r"(?:Eq|Alg|Sec)\. \d+|\b[A-Z]\w+(?: et al\.| and \w+)? \d{4}", METHODS[name].source):
            assert source in row["source"] or source == "Cai 2025", name
    assert len([row for row in rows(METHODS_PAGE, "method") if "attribution" in row]) == len(METHODS)


def test_the_methods_whose_sum_means_something_are_those_of_the_engine() -> None:
    found = {name: row["`efficiency`"] for row in rows(METHODS_PAGE, "method") if "`efficiency`" in row
             for name in words(row["method"])}  # fmt: skip
    everywhere = {name for name, where in found.items() if where == "everywhere"}
    pools = found.keys() - everywhere
    assert everywhere == {name for name, method in METHODS.items() if method.efficient == "always"}
    assert pools == {name for name, method in METHODS.items() if method.efficient == "pools"}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "docs" / "api.md"], ids=lambda page: page.name
)
def test_every_list_of_formats_is_that_of_the_decoder(page: Path) -> None:
    text = " ".join(read(page).split())
    lists = [
        re.split(r", | and | or ", found) for found in re.findall(r"JPEG, PNG(?:, \w+)*(?: (?:and|or) [A-Z]\w+)?", text)
    ]
    assert lists
    titles = [entry.title for entry in FORMATS.values()]
    assert all(found in (titles, list(FORMATS)) for found in lists), lists


def test_no_other_file_of_the_service_lists_the_formats() -> None:
    files = [path for path in (ROOT / "app").rglob("*") if path.suffix in {".py", ".js", ".html"}]
    assert len(files) > 100
    listing = re.compile(r"JPEG\W+PNG|jpeg\W+(?:image/)?\W*png", re.IGNORECASE)
    assert [path.name for path in files if listing.search(read(path))] == []


def test_every_utility_has_a_row() -> None:
    # For a softmax, and for a sigmoid.
    assert [words(row["utility"])[0] for row in rows(METHODS_PAGE, "utility")] == 2 * list(UTILITIES)


def test_every_picture_of_the_methods_is_shown_and_all_are_small() -> None:
    pictures = list((ROOT / "docs" / "methods").iterdir())
    assert {picture.name for picture in pictures} == set(re.findall(r"\(methods/(\w+\.jpg)\)", read(METHODS_PAGE)))
    assert sum(picture.stat().st_size for picture in pictures) < 1.5e6


def test_every_key_of_the_file_of_networks_is_documented() -> None:
    tables = {"preprocessing": PreprocessingEntry, "layers": LayersEntry, "check": CheckEntry}
    keys = [name for name in NetworkEntry.model_fields if name not in tables]
    keys += [f"{table}.{name}" for table, entry in tables.items() for name in entry.model_fields]
    assert sorted(words(row["key"])[0] for row in rows(CONFIGURATION, "key")) == sorted(keys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_networks_of_the_pages_can_be_configured(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "toml")):
        names = re.findall(r'"(?:python:)?([\w.]+\.(?:safetensors|pth|png|py))[":]', block)
        for name in names:
            (tmp_path / name).touch()
        for name in re.findall(r'"transformers:(\w+)"', block):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "config.json").write_text("{}")
        classes = re.search(r"^classes = (\d+)", block, re.MULTILINE)
        labels = "".join(f"class {index}\n" for index in range(int(classes[1]) if classes else 3))
        (tmp_path / "labels.txt").write_text(labels)
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        assert len(read_config(file)) == len(re.findall(r"^\[networks\.\w+\]$", block, re.MULTILINE)) > 0


def test_the_catalogue_is_documented() -> None:
    documented = {
        name: (row["from"], words(row["weights"]), row["`pre_gap`"], row["`last_conv` or `last_norm`"])
        for row in rows(NETWORKS, "network")
        for name in words(row["network"])
    }
    assert documented == {
        name: (
            spec.library,
            [spec.weights.tag] if isinstance(spec.weights, Hub) else [],
            *(f"`{path}`" for path in (spec.layers or {}).values()),
        )
        for name, spec in CATALOGUE.items()
    }


def test_the_limits_of_the_security_page_are_the_defaults() -> None:
    limits = [(words(row["set by"]), row["default"]) for row in rows(ROOT / "SECURITY.md", "limit")]
    settings = {variable(name): field.default for name, field in Settings.model_fields.items()}
    named = {name: default for names, default in reversed(limits) for name in names}
    assert named.keys() == {
        "CAM_MAX_BODY_MIB", "CAM_MAX_MEGAPIXELS", "CAM_MAX_TARGETS", "CAM_QUEUE_SIZE", "CAM_TIMEOUT_S",
    }  # fmt: skip
    for name, default in named.items():
        assert re.search(rf"\b{settings[name]}\b", default), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_the_pages_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
