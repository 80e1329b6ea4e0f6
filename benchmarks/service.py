"""The service under load, called from a process of its own, held against the engine's own best throughput."""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from app.cam.engine import explain
from app.cam.methods import METHODS
from app.cam.questions import Question
from app.cam.utilities import UTILITIES
from app.imaging.colour import colormap_table
from app.imaging.decode import open_image
from app.imaging.overlay import Canvas, Colouring, overlay
from app.imaging.png import bands_of, encode_png
from app.imaging.reading import DecodeSpec, ReadImage, read_image
from app.imaging.tensors import normalise
from app.imaging.view import make_view
from benchmarks.callers import Outcome
from benchmarks.measure import EMBEDDED, benchmark_network, fast_split, row, seconds, table
from testing.footprint import resident_mib
from testing.pictures import encoded, photograph
from testing.serving import Service, serving

BATCHES = (1, 2, 4, 8, 16, 32)
CALLERS = (1, 4, 16, 64)
PATHS = {"with metrics": "/v1/explain", "without metrics": "/v1/explain?metrics=false"}


def picture_500() -> bytes:
    """A photograph of 500 x 375 px as a JPEG of 60 kB."""
    return encoded(photograph("coffee").resize((500, 375)), "JPEG", quality=90)


def shares(repeats: int) -> str:
    """What it takes to read a picture and to write one, beside its explanation."""
    decode, compute, paint, encode = (1e3 * part for part in _parts(repeats))
    total = decode + compute + paint + encode
    lines = [
        "## Where the time of one explanation goes",
        "",
        "Embedded network, JPEG of 500 x 375 px, ShapleyCAM at `pre_gap` with metrics, one at a time in one process.",
        "",
        *table("part", "ms", "share"),
        *(
            row(name, f"{ms:.1f}", f"{100 * ms / total:.0f} %")
            for name, ms in (
                ("decode, resize, crop", decode),
                ("explanation, heatmap, metrics", compute),
                ("overlay", paint),
                ("`encode_png`", encode),
            )
        ),
    ]
    return "\n".join([*lines, ""])


def _parts(repeats: int) -> tuple[float, float, float, float]:
    """Median seconds to decode, to explain (alone), to paint and to encode."""
    data = picture_500()
    network, split = benchmark_network(EMBEDDED), fast_split(EMBEDDED, "pre_gap")
    picture = _read(data)
    images = normalise(_pixels(picture)[None], network.preprocessing, network.device)
    question = [Question(0, METHODS["shapleycam"], UTILITIES["rest"])]
    heatmap = explain(split, images, question).explanations[0].heatmap
    assert picture.base is not None
    base = memoryview(picture.base.tobytes())
    size = (picture.width, picture.height)
    canvas = Canvas(picture.base.size, size, make_view(*size, network.preprocessing).box)
    heat, colouring = Image.fromarray(heatmap.numpy()), Colouring(colormap_table("jet"), 0.5)
    painted = overlay(base, canvas, heat, colouring)
    works = (
        lambda: _read(data),
        lambda: explain(split, images, question),
        lambda: overlay(base, canvas, heat, colouring),
        lambda: encode_png(painted.size, "RGB", bands_of(painted), bytearray().extend),
    )
    return tuple(statistics.median(seconds(work) for _ in range(5 * repeats)) for work in works)  # type: ignore[return-value]


def _read(data: bytes) -> ReadImage:
    spec = DecodeSpec.of(benchmark_network(EMBEDDED).preprocessing, max_side=1024)
    return read_image(open_image(data, 10**8), spec)


def _pixels(picture: ReadImage) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.view))


def _best_of_engine(metrics: bool, repeats: int) -> tuple[float, int]:
    """Images a second of the engine's best batch, each picture decoded before and encoded after; and that batch."""
    decode, _, paint, encode = _parts(repeats)
    compute = {batch: _explain_s(batch, metrics, repeats) / batch for batch in BATCHES}
    batch = min(compute, key=compute.__getitem__)
    return 1 / (decode + paint + encode + compute[batch]), batch


def _explain_s(batch: int, metrics: bool, repeats: int) -> float:
    network, split = benchmark_network(EMBEDDED), fast_split(EMBEDDED, "pre_gap")
    pixels = _pixels(_read(picture_500()))[None].repeat(batch, 1, 1, 1)
    images = normalise(pixels, network.preprocessing, network.device)
    questions = [Question(number, METHODS["shapleycam"], UTILITIES["rest"]) for number in range(batch)]
    explain(split, images, questions, metrics=metrics)
    return statistics.median(
        seconds(lambda: explain(split, images, questions, metrics=metrics)) for _ in range(repeats)
    )


def load(repeats: int, phase_s: float) -> str:
    """Closed loops of several callers, an open one at 80% of what they reached, and one at three times as much."""
    lines = [
        "## The service under load",
        "",
        "Embedded network, JPEG of 500 x 375 px, ShapleyCAM at `pre_gap`, `Accept: image/png`; callers in a process of "
        "their own on the same processors. *Of the engine*: over the images a second of the engine's best batch in one "
        "process without HTTP, each picture decoded before and its overlay encoded after. Target at 16 callers: 0.85.",
        "",
        *table("request", "callers", "answers a second", "of the engine", "p50 ms", "p95", "p99", "refused"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "picture.jpg")
        file.write_bytes(picture_500())
        for name, path in PATHS.items():
            engine, batch = _best_of_engine(path == "/v1/explain", repeats)
            print(f"engine {name}: {engine:.1f} images a second at batch {batch}")
            with serving(Path(folder)) as service:
                _call(service, path, file, "closed", 4, 3)
                rates = {}
                for callers in CALLERS:
                    outcome = _call(service, path, file, "closed", callers, phase_s)
                    rates[callers] = len(outcome.latencies_ms) / outcome.seconds
                    lines.append(_load_row(name, f"{callers}", outcome, engine))
                rate = 0.8 * max(rates.values())
                outcome = _call(service, path, file, "open", rate, phase_s)
                lines.append(_load_row(name, f"open, {rate:.0f} a second", outcome, engine))
                if path == "/v1/explain":
                    lines.append(_load_row(name, "1, closed", _call(service, path, file, "closed", 1, 3), engine))
                    overhead = asyncio.run(_overhead_ms(service))
    lines += ["", f"One caller: p50 is {overhead:.1f} ms over the sum of decode, compute and render (at most 12).", ""]
    return "\n".join(lines)


async def _overhead_ms(service: Service) -> float:
    """Median over single requests of the time that is neither decoding, nor computing, nor drawing."""
    picture = picture_500()
    rest: list[float] = []
    async with httpx.AsyncClient(base_url=service.url) as client:
        for _ in range(50):
            started = time.perf_counter()
            reply = await client.post("/v1/explain", content=picture, headers={"Content-Type": "image/jpeg"})
            total_ms = 1e3 * (time.perf_counter() - started)
            timing = reply.json()["timing_ms"]
            rest.append(total_ms - timing["decode"] - timing["compute"] - timing["render"])
    return statistics.median(rest)


def overload(phase_s: float, deadline_s: float = 10.0) -> str:
    """Three times what the service can do, for a minute: what callers see, and how soon it is calm again."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "picture.jpg")
        file.write_bytes(picture_500())
        with serving(Path(folder), timeout_s=deadline_s) as service:
            calm = _call(service, "/v1/explain", file, "closed", 16, 10)
            capacity = len(calm.latencies_ms) / calm.seconds
            with ThreadPoolExecutor(1) as pool:
                storm = pool.submit(_call, service, "/v1/explain", file, "open", 3 * capacity, phase_s)
                memory = []
                while not storm.done():
                    memory.append(f"{resident_mib(service.process.pid):.0f}")
                    wait([storm], timeout=phase_s / 6)
            stormy = storm.result()
            time.sleep(1.0)
            later = _call(service, "/v1/explain", file, "closed", 1, 5)
            single = _call(service, "/v1/explain", file, "closed", 1, 5)
    p99 = float(np.quantile(stormy.latencies_ms, 0.99))
    lines = [
        f"## Three times the capacity for {phase_s:.0f} s",
        "",
        f"Capacity {capacity:.1f} answers a second (16 callers), requests at {3 * capacity:.0f} a second, "
        f"`CAM_TIMEOUT_S` {deadline_s:g}: {stormy.statuses}. Accepted requests: p99 {p99:.0f} ms, "
        f"{len(stormy.latencies_ms) / stormy.seconds:.1f} answers a second. Resident MiB every {phase_s / 6:.0f} s: "
        f"{', '.join(memory)}. One caller a second later: p50 {statistics.median(later.latencies_ms):.0f} ms, and "
        f"five seconds after that {statistics.median(single.latencies_ms):.0f} ms.",
        "",
    ]
    print(*lines, sep="\n")
    return "\n".join(lines)


def _load_row(name: str, callers: str, outcome: Outcome, engine: float) -> str:
    rate = len(outcome.latencies_ms) / outcome.seconds
    quantiles = (f"{np.quantile(outcome.latencies_ms, q):.0f}" for q in (0.5, 0.95, 0.99))
    refused = sum(count for status, count in outcome.statuses.items() if status != "200")
    return row(name, callers, f"{rate:.1f}", f"{rate / engine:.2f}", *quantiles, refused)


def _call(service: Service, path: str, file: Path, loop: str, number: float, phase_s: float) -> Outcome:
    arguments = (service.url, path, str(file), loop, str(number), str(phase_s))
    command = [sys.executable, "-m", "benchmarks.callers", *arguments]
    return Outcome(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
