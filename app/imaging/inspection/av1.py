"""AV1: how large the frames of a coded picture are, as its own headers say."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.errors import ImageUnreadable
from app.imaging.inspection.limits import cut_short, too_many

MAX_UNITS = 1 << 12

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6
_KEY_FRAME, _SWITCH_FRAME = 0, 3
_CHOOSE = 2
# No header that is read here is longer.
_HEADER_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class Frames:
    """What a coded picture is made of.

    Attributes:
        width: of the largest frame in px.
        height: of it in px.
        pixels: of all frames together.
    """

    width: int
    height: int
    pixels: int


@dataclass(slots=True)
class _Sequence:
    """What a sequence header says of its frames; the names are the specification's."""

    reduced_still_picture_header: bool
    width: int = 0
    height: int = 0
    presentation_time_bits: int = 0
    frame_id_bits: int = 0
    force_screen_content_tools: int = _CHOOSE
    force_integer_mv: int = _CHOOSE


class _Bits:
    """Reads bits from the front; behind the end are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data[:_HEADER_BYTES]
        self._value = int.from_bytes(self._data, "big")
        self._left = 8 * len(self._data)

    def take(self, count: int = 1) -> int:
        """The next bits as a number."""
        self._left -= count
        if self._left < 0:
            raise cut_short("AVIF")
        return self._value >> self._left & (1 << count) - 1

    def skip_uvlc(self) -> None:
        """Steps over a number of variable length."""
        zeros = 0
        while not self.take():
            zeros += 1
        self.take(zeros if zeros < 32 else 0)


def frames_of(data: bytes) -> Frames:
    """Looks through the units of a coded picture.

    Args:
        data: open bitstream units, each with its size but for the last.

    Returns:
        The frames; none of them has more than `width` x `height` px.

    Raises:
        ImageUnreadable: the units are cut short, too many, or a frame has another size than its sequence says.
    """
    sequence = None
    widest = tallest = pixels = 0
    for kind, payload in _units(data):
        if kind == _SEQUENCE:
            sequence = _sequence(_Bits(payload))
            widest, tallest = max(widest, sequence.width), max(tallest, sequence.height)
        elif kind in {_FRAME, _FRAME_HEADER}:
            if sequence is None:
                raise cut_short("AVIF")
            if _has_own_size(_Bits(payload), sequence):
                raise ImageUnreadable("the AVIF file has a frame of another size than its sequence header says")
            pixels += sequence.width * sequence.height
    return Frames(widest, tallest, pixels)


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type of each unit, and how it begins."""
    at = 0
    for _ in range(MAX_UNITS):
        if at >= len(data):
            return
        head = data[at]
        at += 2 if head & 4 else 1
        size = len(data) - at
        if head & 2:
            size, at = _leb128(data, at)
        yield head >> 3 & 15, data[at : at + min(size, _HEADER_BYTES)]
        at += size
    raise too_many("AVIF", "units in a coded picture", MAX_UNITS)


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + 8]):
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value, at + place + 1
    raise cut_short("AVIF")


def _sequence(bits: _Bits) -> _Sequence:
    bits.take(4)
    sequence = _Sequence(bool(bits.take()))
    if sequence.reduced_still_picture_header:
        bits.take(5)
    else:
        _skip_operating_points(bits, sequence)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    sequence.width, sequence.height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    if sequence.reduced_still_picture_header:
        return sequence
    if bits.take():
        sequence.frame_id_bits = bits.take(4) + 2 + bits.take(3) + 1
    bits.take(7)
    has_order_hint = bits.take()
    bits.take(2 if has_order_hint else 0)
    sequence.force_screen_content_tools = _CHOOSE if bits.take() else bits.take()
    if sequence.force_screen_content_tools:
        sequence.force_integer_mv = _CHOOSE if bits.take() else bits.take()
    return sequence


def _skip_operating_points(bits: _Bits, sequence: _Sequence) -> None:
    delay_bits = 0
    if bits.take():
        bits.take(64)
        equal_picture_interval = bits.take()
        if equal_picture_interval:
            bits.skip_uvlc()
        if bits.take():
            delay_bits = bits.take(5) + 1
            bits.take(32 + 5)
            time_bits = bits.take(5) + 1
            sequence.presentation_time_bits = 0 if equal_picture_interval else time_bits
    has_display_delay = bits.take()
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take()
        if delay_bits and bits.take():
            bits.take(2 * delay_bits + 1)
        if has_display_delay and bits.take():
            bits.take(4)


def _has_own_size(bits: _Bits, sequence: _Sequence) -> bool:
    """Reads a frame's header up to the bit that says so."""
    if sequence.reduced_still_picture_header or bits.take():
        return False
    kind, is_shown = bits.take(2), bits.take()
    bits.take(sequence.presentation_time_bits if is_shown else 1)
    if kind == _SWITCH_FRAME:
        return True
    if not (kind == _KEY_FRAME and is_shown):
        bits.take()
    bits.take()
    tools = sequence.force_screen_content_tools
    if (bits.take() if tools == _CHOOSE else tools) and sequence.force_integer_mv == _CHOOSE:
        bits.take()
    bits.take(sequence.frame_id_bits)
    return bool(bits.take())
