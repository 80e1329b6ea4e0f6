"""The borders between the rooms: who may import what."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WEB = {"fastapi", "starlette", "uvicorn", "pydantic", "httpx"}
FORBIDDEN = {
    "app/cam": WEB | {"app.api", "app.runtime", "app.imaging", "app.settings", "app.errors", "app.parameters"},
    "app/errors.py": WEB | {"app", "service_models"},
    "app/imaging": WEB | {"app.api", "app.runtime", "app.cam", "app.settings", "app.parameters"},
    "app/evaluation": (WEB - {"pydantic"}) | {"app.api", "app.parameters"},
    "app/runtime": {"fastapi", "starlette", "uvicorn", "app.api", "app.parameters", "app.schemas"},
    "app/cluster": {"app.imaging", "app.evaluation", "app.cam.engine", "app.cam.methods"},
    "service_models": {"fastapi", "starlette", "uvicorn", "app"},
    "tests": {"benchmarks"},
    "benchmarks": {"tests"},
    "testing": {"tests", "benchmarks"},
}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_nothing_beyond_its_border(room: str) -> None:
    files = [ROOT / room] if room.endswith(".py") else list((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        for name in imported(file):
            crossed = {border for border in FORBIDDEN[room] if name == border or name.startswith(f"{border}.")}
            assert not crossed, f"{file.relative_to(ROOT)} imports {name}"


def test_no_module_of_the_engine_calls_backward_or_holds_parameters_trainable() -> None:
    for file in (ROOT / "app").rglob("*.py"):
        assert ".backward(" not in file.read_text(), file
