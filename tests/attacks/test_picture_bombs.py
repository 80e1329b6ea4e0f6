"""Pictures made to be expensive are refused before they cost anything, and nobody else notices them."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import httpx
import pytest

from app.errors import ERRORS
from testing.attacks import bombs, bombs_of_tables
from testing.serving import Service
from testing.watching import broken_decoders
from tests.attacks.neighbours import Neighbours, calm, neighbours

ATTACK_S = 2.0
_STATUS_OF = {error.code: error.status for error in ERRORS}


@dataclass(frozen=True, slots=True)
class Attack:
    """A file that is posted again and again.

    Attributes:
        make: gives the file.
        callers: how many post it at a time.
        pause_s: between two posts of a caller.
        code: of the answer; None where the picture is read.
    """

    make: Callable[[], bytes]
    callers: int = 2
    pause_s: float = 0.2
    code: str | None = "image_unreadable"


MANY = 200_000
ATTACKS = {
    "progressive JPEGs, four at once": Attack(bombs.progressive_jpeg_of_many_scans, 4, 0.0),
    "progressive JPEGs of empty scans": Attack(bombs.progressive_jpeg_of_empty_scans),
    "arithmetic JPEGs": Attack(bombs.arithmetic_jpeg_of_many_scans),
    "JPEGs of many segments": Attack(partial(bombs.jpeg_of_many_segments, MANY)),
    "run-length BMPs": Attack(bombs.run_length_bmp, 6, 0.5),
    "run-length BMPs that stand still": Attack(partial(bombs.run_length_bmp_of_escapes, 300_000), 1, 1.0),
    "lossless WebPs, one a second": Attack(bombs.lossless_webp, 1, 1.0),
    "WebPs of many frames": Attack(partial(bombs.webp_of_many_frames, 80_000), 1, 1.0, None),
    "AVIFs of many items": Attack(bombs_of_tables.avif_of_many_items),
    "AVIFs of many chunks": Attack(partial(bombs_of_tables.avif_of_many_chunks, 60_000)),
    "AVIFs of another size": Attack(bombs_of_tables.avif_of_other_size, code="too_many_pixels"),
    "PNGs of 3,000 profiles": Attack(partial(bombs.png_of_many_profiles, 3000), code=None),
    "PNGs of much text": Attack(bombs.png_of_much_text, code=None),
    "PNGs of many chunks": Attack(partial(bombs.png_of_many_chunks, MANY)),
    "TIFFs of many strips": Attack(partial(bombs_of_tables.tiff_of_many_strips, 800_000)),
    "TIFFs of many entries": Attack(partial(bombs_of_tables.tiff_of_many_entries, MANY)),
    "TIFFs of strips that overlap": Attack(partial(bombs_of_tables.tiff_of_overlapping_strips, chunk=3 << 20)),
    "GIFs of many blocks": Attack(partial(bombs.gif_of_many_blocks, 1_500_000)),
    "GIFs of clear codes": Attack(partial(bombs.gif_of_clear_codes, 3 << 20)),
}


@pytest.fixture(scope="module")
def calm_neighbours(attacked: Service) -> Neighbours:
    return calm(attacked, 2.0)


def answers(service: Service, attack: Attack) -> set[tuple[int, str | None]]:
    """Posts for a while; the statuses and codes of the answers."""
    data, found = attack.make(), set[tuple[int, str | None]]()
    until = time.monotonic() + ATTACK_S

    def post() -> None:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            while time.monotonic() < until:
                reply = client.post("/v1/predict", content=data, headers={"content-type": "image/png"})
                found.add((reply.status_code, reply.json().get("code")))
                time.sleep(attack.pause_s)

    threads = [threading.Thread(target=post) for _ in range(attack.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_costly_pictures_are_answered_at_once_and_others_as_ever(
    attacked: Service, calm_neighbours: Neighbours, name: str
) -> None:
    attack, deaths = ATTACKS[name], broken_decoders(attacked)
    with neighbours(attacked) as seen:
        found = answers(attacked, attack)
    assert found == {(_STATUS_OF[attack.code] if attack.code else 200, attack.code)}
    assert broken_decoders(attacked) == deaths
    seen.assert_unhurt(calm_neighbours)
