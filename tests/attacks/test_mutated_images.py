"""Whatever becomes of a picture on its way, its sender is told, in time, and nobody else notices."""

import struct

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from app.errors import ImageError
from app.imaging.decode import open_image
from app.imaging.picture import pixels_of
from app.imaging.reading import DecodeSpec, read_image
from service_models.spec import Preprocessing
from testing.attacks.containers import (
    join_boxes,
    join_jpeg,
    join_plain,
    join_png,
    join_riff,
    split_boxes,
    split_gif,
    split_jpeg,
    split_png,
    split_riff,
)
from testing.attacks.images import GoodRequest, Mutant, Tally, mutants, post
from testing.attacks.seeds import SIZE_PX, format_of, sound_files
from testing.pictures import MAX_PIXELS
from testing.serving import Service
from testing.watching import broken_decoders, tracebacks

DECODE_SPEC = DecodeSpec.of(Preprocessing(), "crop", 256)
CONTAINERS = {
    "JPEG": (split_jpeg, join_jpeg),
    "PNG": (split_png, join_png),
    "WEBP": (split_riff, join_riff),
    "AVIF": (split_boxes, join_boxes),
    "GIF": (split_gif, join_plain),
}
# The same in every run; a failure is shrunk at leisure, by hand.
ATTACK = settings(
    derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(sound_files()))
def test_the_files_that_are_mutated_are_sound(name: str) -> None:
    data = sound_files()[name]
    file_format = name.split()[0]
    read = read_image(open_image(data, MAX_PIXELS), DECODE_SPEC)
    assert read.format == file_format == format_of(data)
    assert {read.width, read.height} == set(SIZE_PX)
    if file_format in CONTAINERS:
        split, join = CONTAINERS[file_format]
        parts = split(data)
        assert join(parts) == data, "a file is taken apart and put together without a trace"


@given(mutants())
@settings(ATTACK, max_examples=1000)
def test_the_reader_makes_a_picture_of_a_mutant_or_an_error_of_ours(mutant: Mutant) -> None:
    message = ""
    try:
        read = read_image(open_image(mutant.data, MAX_PIXELS), DECODE_SPEC)
    except ImageError as error:
        message = str(error)
    else:
        pixels = pixels_of(read.view, DECODE_SPEC, is_deep=read.depth is not None)
        assert pixels.shape == (224, 224, 3)
        assert read.base is not None
        assert max(read.base.size) <= 256
    assert not any(word in message for word in ("PIL", "BytesIO", "0x", "/"))


def wide_tiff(data: bytes) -> bytes:
    """A BigTIFF that claims a width of 2^63 px."""
    (at,) = struct.unpack_from("<Q", data, 8)
    (count,) = struct.unpack_from("<Q", data, at)
    entry = next(entry for entry in range(at + 8, at + 8 + 20 * count, 20) if data[entry : entry + 2] == b"\0\1")
    return data[:entry] + struct.pack("<HHQQ", 256, 16, 1, 2**63) + data[entry + 20 :]


def test_a_picture_that_claims_more_than_32_bits_of_pixels_is_too_large_and_breaks_no_decoder(
    attacked: Service, attacker: httpx.Client
) -> None:
    deaths = broken_decoders(attacked)
    data = wide_tiff(sound_files()["TIFF big"])
    reply = attacker.post("/v1/predict", content=data, headers={"content-type": "image/tiff"})
    assert (reply.status_code, reply.json()["code"]) == (413, "too_many_pixels")
    assert reply.json()["detail"]["width"] == 2**63
    assert broken_decoders(attacked) == deaths


def test_the_service_answers_mutants_by_the_contract_and_others_as_before(
    attacked: Service, attacker: httpx.Client
) -> None:
    tally, good = Tally(), GoodRequest(attacker)
    deaths = broken_decoders(attacked)

    @given(mutants())
    @settings(ATTACK, max_examples=400)
    def attack(mutant: Mutant) -> None:
        post(attacker, mutant, tally)
        if sum(tally.statuses.values()) % 20 == 0:
            assert not good.check()

    attack()
    assert not tally.faults, tally.faults[0]
    assert tally.over_limit == 0, tally.slowest_s
    assert set(tally.statuses) == {200, 413, 415, 422}, "all kinds of replies were seen"
    assert broken_decoders(attacked) == deaths
    assert tracebacks(attacked) == 0
    assert not good.check()
