"""Requests of every kind at once, each reply held against the one that the same request got alone."""

import asyncio
import base64
import random
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from PIL import Image

from app.cam.methods import METHODS
from testing.footprint import resident_mib
from testing.pictures import encoded, photograph
from testing.serving import Service

CALLERS = 16
# Attributions of a batch differ from those of its images alone by rounding; XGradCAM divides by sums near zero.
TOLERANCE = 2e-3
OF_XGRADCAM = 0.5
_LEVELS = 3


@dataclass(frozen=True, slots=True)
class Variant:
    """A request that is made again and again.

    Attributes:
        name: what it is about.
        fields: in the query string.
        body: the picture, or what is meant to be one.
        is_long: whether it takes seconds.
    """

    name: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    is_long: bool = False


@dataclass(slots=True)
class LoadReport:
    """What came back.

    Attributes:
        statuses: how often each came.
        faults: replies that were lost, failed, or differed from the known one.
        resident_mib: of the service, after each hundred replies.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)


def variants() -> list[Variant]:
    """Every gradient method, in several sizes, formats, layers and targets; mistakes; and long methods."""
    pictures = [
        encoded(photograph("chelsea"), "JPEG"),
        encoded(photograph("coffee").resize((1600, 1067)), "JPEG"),
        encoded(photograph("astronaut").resize((160, 160)), "PNG"),
        encoded(photograph("rocket"), "WEBP"),
    ]
    chosen: list[Variant] = []
    cheap = [name for name, method in METHODS.items() if not method.needs & {"game"}]
    for number, method in enumerate(cheap):
        for layer in ("pre_gap", "last_conv") if method != "cam" else ("pre_gap",):
            for target in ("predicted", str(37 * number % 1000)):
                fields = [("method", method), ("layer", layer), ("target", target), ("seed", str(number))]
                fields.append(("metrics", str(number % 2 == 0).lower()))
                fields.append(("utility", "pre-softmax" if method == "cam" else ("rest", "log-softmax")[number % 2]))
                body = pictures[(number + len(chosen)) % len(pictures)]
                chosen.append(Variant(f"{method} {layer} {target}", tuple(fields), body))
    jpeg = pictures[0]
    chosen += [
        Variant("alpha out of range", (("alpha", "7"),), jpeg),
        Variant("no such network", (("model", "nobody"),), jpeg),
        Variant("cut short", (), jpeg[: len(jpeg) // 2]),
        Variant("no picture", (), b"hello " * 100),
        Variant("too small", (), encoded(photograph("chelsea").resize((4, 4)), "PNG")),
        Variant("no such module", (("layer", "blocks.99"),), jpeg),
    ]
    score = (("method", "scorecam"), ("metrics", "false"), ("include", "attribution"))
    sample = (("method", "shapley-sampling"), ("layer", "blocks.5"), ("permutations", "64"), ("metrics", "false"))
    return [*chosen, Variant("scorecam", score, pictures[3], True), Variant("sampling", sample, pictures[2], True)]


async def call_all(service: Service, count: int, long: int, seed: int = 0) -> LoadReport:
    """Makes `count` requests in random order, `long` of them of the long kind, from 16 callers at once."""
    report, known = LoadReport(), {}
    chance = random.Random(seed)
    async with httpx.AsyncClient(base_url=service.url, timeout=300) as client:
        everything = variants()
        for variant in everything:
            known[variant] = await _call(client, variant)
        short = [variant for variant in everything if not variant.is_long]
        todo = [chance.choice(short) for _ in range(count - long)]
        todo += [variant for variant in everything if variant.is_long] * (long // 2)
        chance.shuffle(todo)

        async def work() -> None:
            while todo:
                variant = todo.pop()
                try:
                    reply = await _call(client, variant)
                except httpx.HTTPError as error:
                    report.faults.append(f"{variant.name}: lost, {error!r}")
                    continue
                report.statuses[reply.status_code] += 1
                report.faults += [f"{variant.name}: {what}" for what in _differences(reply, known[variant])]
                if sum(report.statuses.values()) % 100 == 0:
                    report.resident_mib.append(resident_mib(service.process.pid))

        await asyncio.gather(*(work() for _ in range(CALLERS)))
    return report


async def _call(client: httpx.AsyncClient, variant: Variant) -> httpx.Response:
    headers = {"Content-Type": "image/jpeg"}
    return await client.post("/v1/explain", params=variant.fields, content=variant.body, headers=headers)


def _differences(reply: httpx.Response, known: httpx.Response) -> list[str]:
    if reply.status_code != known.status_code:
        return [f"{reply.status_code} instead of {known.status_code}: {reply.text[:200]}"]
    found, expected = reply.json(), known.json()
    if reply.status_code != 200:
        return [] if found == expected else [f"{found} instead of {expected}"]
    if found["image"] != expected["image"] or found["view"] != expected["view"]:
        return ["the picture of another request"]
    pairs = zip(found["explanations"], expected["explanations"], strict=True)
    return [what for pair in pairs for what in _of_explanation(*pair)]


def _of_explanation(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    wrong = [name for name in ("method", "utility", "forward_passes", "warnings") if found[name] != expected[name]]
    wrong += ["target"] * (found["target"]["index"] != expected["target"]["index"])
    one, other = (np.array(explanation["attribution"]["values"], float) for explanation in (found, expected))
    tolerance = OF_XGRADCAM if found["method"] == "xgradcam" else TOLERANCE
    if np.abs(one - other).max() > tolerance * np.abs(other).max():
        wrong.append("attribution")
    if found["heatmap"] is not None and found["method"] != "xgradcam":
        pictures = [np.asarray(_png(explanation["heatmap"])).astype(int) for explanation in (found, expected)]
        if np.abs(pictures[0] - pictures[1]).max() > _LEVELS:
            wrong.append("heatmap")
    return wrong


def _png(picture: dict[str, Any]) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(picture["b64"])))
