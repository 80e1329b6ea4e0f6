"""Data sets of photographs inside the scikit-image package, and evaluations of them."""

import io
import json
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image

from app.__main__ import main
from app.evaluation.store import Results
from app.process import processors
from testing.pictures import encoded, noise, photograph
from testing.serving import ROOT, environment
from tests.forking import FORKING

EMBEDDED = "tf_efficientnet_lite0"
# Small images, some of which cannot be read; one more makes the last of six shards of 64.
IMAGES = 330
SHARDS = 6
OPTIONS = ("--models", "small", "--batch-size", 4, "--methods", "gradcam,shapleycam,randomcam", "--layers", "pre_gap")
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
# Egyptian cat, espresso, missile; the astronaut's suit is no class of its own.
LABELS = {"chelsea": 285, "coffee": 967, "rocket": 657, "astronaut": 652}


def photographs(folder: Path) -> Path:
    """A folder of four."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        (folder / f"{name}.png").write_bytes(encoded(photograph(name), "PNG"))
    return folder


def many(folder: Path, count: int) -> Path:
    """A folder of small pictures, some of which cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(PHOTOGRAPHS)
    for number in range(count):
        picture = photograph(names[number % 4]).rotate(7 * number).resize((120, 96), Image.Resampling.BILINEAR)
        content = encoded(picture, "JPEG")
        (folder / f"{number:04d}.jpg").write_bytes(content[:400] if number % 7 == 3 else content)
    (folder / f"{count:04d}.png").write_bytes(encoded(noise(4, 4, 3), "PNG"))
    return folder


def small_network(folder: Path) -> Path:
    """A configuration with a small network of calibrated random weights of 64 x 64 px."""
    path = folder / "networks.toml"
    path.write_text(
        '[networks.small]\narchitecture = "timm:test_resnet"\nweights = "random"\n'
        "classes = 10\npreprocessing = {input_size = [64, 64], resize_size = 72}\n"
    )
    return path


class Run:
    """`python -m app` in a process of its own, forked: tests that kill and resume need some forty."""

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        descriptor, self._output = tempfile.mkstemp()
        os.close(descriptor)
        self._process = FORKING.Process(target=_become, args=(arguments, env, self._output))
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative where a signal has ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, limit_s: float = 600) -> tuple[int, str]:
        """Waits for its end; returns the exit status and all it said."""
        self._process.join(limit_s)
        assert self.status is not None, "it does not end"
        output = Path(self._output)
        said = output.read_text(errors="replace")
        output.unlink()
        return self.status, said

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it as a lack of memory or of current would."""
        self._process.kill()
        self.wait()


def _become(arguments: list[str], env: dict[str, str], output: str) -> None:
    """Makes of a forked process what a new one would be."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(ROOT)
    descriptor = os.open(output, os.O_WRONLY)
    for standard in (sys.stdout, sys.stderr):
        os.dup2(descriptor, standard.fileno())
    sys.argv = ["app", *arguments]
    # It was imported for this file, and is to be run as the program: otherwise runpy warns.
    sys.modules.pop("app.__main__", None)
    runpy.run_module("app", run_name="__main__", alter_sys=True)


def start(*arguments: object, **settings: object) -> Run:
    """Starts `python -m app` with these arguments."""
    return Run([*map(str, arguments)], environment(**settings))


def run(*arguments: object, **settings: object) -> tuple[int, str]:
    """Does what `python -m app` does, in this process; returns its exit status and all it said.

    For a few images: with every shape checked, hundreds take longer than the start of a process.
    """
    root, said = logging.getLogger(), io.StringIO()
    threads, handlers, level = torch.get_num_threads(), root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        for name in [name for name in os.environ if name.startswith("CAM_")]:
            patch.delenv(name)
        for name, value in environment(**settings).items():
            patch.setenv(name, value)
        root.handlers.clear()
        torch.set_num_threads(processors())
        try:
            return main([*map(str, arguments)]), said.getvalue()
        except SystemExit as stopped:
            return int(str(stopped.code)), said.getvalue()
        finally:
            torch.set_num_threads(threads)
            root.handlers[:] = handlers
            root.setLevel(level)


def run_apart(*arguments: object, **settings: object) -> tuple[int, str]:
    """Runs `python -m app` in a process of its own; returns its exit status and all it said."""
    return start(*arguments, **settings).wait()


def rows(out: Path, network: str) -> pa.Table:
    return Results(out).read(network)


def shards(out: Path) -> dict[str, bytes]:
    """All Parquet files of a folder of results, by their names."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def naive_rows(folder: Path, job: dict[str, object]) -> list[dict[str, object]]:
    """What a plain loop around the `grad-cam` package finds, in a process of its own: the package leaks."""
    request, result = folder / "job.json", folder / "naive.json"
    request.write_text(json.dumps(job | {"result": str(result)}))
    subprocess.run([sys.executable, "-m", "tests.evaluation.naive", str(request)], check=True, cwd=ROOT)
    found: list[dict[str, object]] = json.loads(result.read_text())["rows"]
    return found
