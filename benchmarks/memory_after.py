"""What hostile requests leave behind: `python -m benchmarks.memory_after`.

A service that has answered ordinary requests gets every picture of `benchmarks.costly_pictures`, every body and header
of `benchmarks.largest`, a drawing that is as large as is allowed and whose caller hangs up, and layers that were never
used. Its memory and that of its image processes is read before, and a minute after the last; twice, so that what grows
with each round is told from what is there once.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from urllib.parse import urlencode

import httpx
from PIL import Image

from benchmarks.costly_pictures import hostile
from benchmarks.largest import Extreme, bodies, headers
from benchmarks.measure import row, table
from benchmarks.stalls import send
from testing.footprint import Footprint, footprint
from testing.pictures import encoded, photograph
from testing.serving import Service, serving

_ORDINARY = 200
_ROUNDS = 2
_LATER_S = 60.0
_LOOKS = 5
_TIMEOUT_S = 120.0


def attacks() -> Iterator[tuple[str, Callable[[Service], list[str]]]]:
    """All kinds of them; each returns the statuses that it got."""
    yield "pictures", partial(_send_all, _pictures)
    yield "bodies and headers", partial(_send_all, lambda: chain(bodies(), headers()))
    yield "a drawing, hung up", lambda service: [hang_up(service)]
    yield "new layers", partial(_send_all, _layers)


def _send_all(requests: Callable[[], Iterable[Extreme]], service: Service) -> list[str]:
    return [send(service.url, request.wire()) for request in requests()]


def _pictures() -> Iterator[Extreme]:
    for name, make in hostile():
        yield Extreme(name, make, {"Content-Type": _type_of(name)}, "/v1/predict")


def _layers() -> Iterator[Extreme]:
    layers = [("layer", f"blocks.{number}.0") for number in range(7)]
    yield Extreme("new layers", _ordinary, {"Content-Type": "image/jpeg"}, f"/v1/explain?{urlencode(layers)}")


def _type_of(name: str) -> str:
    known = ("png", "webp", "gif", "bmp", "tiff", "avif")
    return f"image/{next((kind for kind in known if kind in name), 'jpeg')}"


def _ordinary() -> bytes:
    return encoded(photograph("coffee").resize((500, 375)), "JPEG")


def hang_up(service: Service) -> str:
    """Asks for the largest drawings, and does not wait for them."""
    picture = encoded(Image.new("RGB", (8000, 7900), "red"), "PNG")
    targets = [("target", str(number)) for number in range(16)]
    query = urlencode([*targets, ("max_side", 0), ("include", "overlay")])
    try:
        reply = httpx.post(
            f"{service.url}/v1/explain?{query}", content=picture, headers={"Content-Type": "image/png"}, timeout=3.0
        )
    except httpx.TimeoutException:
        return "hung up"
    return str(reply.status_code)


def settled(service: Service) -> Footprint:
    """The median of some looks."""
    looks = []
    for _ in range(_LOOKS):
        looks.append(footprint(service.process.pid))
        time.sleep(1.0)
    return sorted(looks, key=lambda look: look.resident_mib + look.children_mib)[_LOOKS // 2]


def main() -> None:
    """Prints a table."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), models="tf_efficientnet_lite0") as service:
        with httpx.Client(base_url=service.url, timeout=_TIMEOUT_S) as client:
            times = []
            for _ in range(_ORDINARY):
                started = time.perf_counter()
                client.post(
                    "/v1/explain", content=_ordinary(), headers={"Content-Type": "image/jpeg"}
                ).raise_for_status()
                times.append(time.perf_counter() - started)
        print(f"ordinary requests: {1e3 * statistics.median(times):.0f} ms\n")
        time.sleep(_LATER_S)
        print(
            "\n".join(table("when", "its own MiB", "image processes MiB", "image processes", "threads", "descriptors"))
        )
        _show("before", settled(service))
        for number in range(1, _ROUNDS + 1):
            for kind, attack in attacks():
                statuses = attack(service)
                time.sleep(_LATER_S)
                _show(f"round {number}, a minute after {kind} ({len(statuses)})", settled(service))


def _show(when: str, look: Footprint) -> None:
    row(when, f"{look.resident_mib:.0f}", f"{look.children_mib:.0f}", look.children, look.threads, look.descriptors)


if __name__ == "__main__":
    main()
