"""/livez answers within 50 ms while slow explanations run: the event loop is never blocked."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from testing.pictures import encoded, photograph
from testing.serving import Service
from tests.api.asking import JPEG, JSON, json_body

LIMIT_MS = 50
SIXTEEN = [("target", str(index)) for index in range(0, 800, 50)]


@contextmanager
def polling(service: Service, times_ms: list[float]) -> Iterator[None]:
    """Polls `/livez` from another process while the context lasts."""
    address = urlsplit(service.url)
    script = Path(__file__).with_name("poll.py")
    command = [sys.executable, str(script), str(address.hostname), str(address.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        time.sleep(0.3)
        yield
        answer, _ = process.communicate(b"enough")
    times_ms += json.loads(answer)


def explain(client: httpx.Client, query: list[tuple[str, str]], body: bytes, headers: dict[str, str]) -> None:
    response = client.post("/v1/explain", params=query, content=body, headers=headers)
    assert response.status_code == 200, response.text


def sixteen_targets_at_an_early_layer(client: httpx.Client) -> None:
    body = encoded(photograph("astronaut"), "JPEG")
    explain(client, [*SIXTEEN, ("layer", "blocks.2")], body, JPEG)


def four_callers_at_once(client: httpx.Client) -> None:
    body = encoded(photograph("astronaut"), "JPEG")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: explain(client, SIXTEEN[:4], body, JPEG), range(12)))


def large_pictures_in_json(client: httpx.Client) -> None:
    large = photograph("coffee").resize((4500, 3000), Image.Resampling.BICUBIC)
    body = json_body(encoded(large, "JPEG", quality=97))
    for _ in range(3):
        explain(client, [("max_side", "0")], body, JSON)


@pytest.mark.parametrize(
    "work", [sixteen_targets_at_an_early_layer, four_callers_at_once, large_pictures_in_json], ids=lambda w: w.__name__
)
def test_livez_answers_within_50_ms_while_explanations_run(
    service: Service, client: httpx.Client, work: Callable[[httpx.Client], None], record_property: Callable[..., None]
) -> None:
    assert client.get("/livez").status_code == 200
    times_ms: list[float] = []
    with polling(service, times_ms):
        started = time.perf_counter()
        work(client)
        seconds = time.perf_counter() - started
    middle, most, largest = np.quantile(times_ms, [0.5, 0.97, 1])
    record_property("livez_ms", {"median": middle, "97%": most, "max": largest, "answers": len(times_ms)})
    print(f"\n{work.__name__}: {seconds:.1f} s, median {middle:.1f}, 97% {most:.1f}, max {largest:.1f} ms")
    assert seconds > 0.5, "the work must be slow to show anything"
    assert len(times_ms) > 20
    assert middle < LIMIT_MS / 2
    # The rest is left to the machine, which may have other work than this.
    assert most < LIMIT_MS
