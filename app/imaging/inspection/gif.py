"""GIF: its screen, palette and first frame, with what is transparent in that."""

import re

from app.imaging.inspection.limits import MAX_PARTS, cut_short, too_many

_SCREEN_BYTES = 13
_EXTENSION, _FRAME, _END = b"!,;"
_GRAPHIC_CONTROL = 0xF9
_BEGIN = re.compile(rb"[!,;]")


def inspected_gif(data: bytes, _max_pixels: int) -> bytes:
    """See `app.imaging.inspection`."""
    if len(data) < _SCREEN_BYTES:
        raise cut_short("GIF")
    begin = at = _SCREEN_BYTES + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    control, parts = b"", 0
    while (found := _BEGIN.search(data, at)) is not None and data[found.start()] == _EXTENSION:
        start = found.start()
        at, parts = _behind_blocks(data, start + 2, parts + 1)
        if data[start + 1 : start + 2] == bytes([_GRAPHIC_CONTROL]) and data[start + 2] >= 4 and data[start + 3] & 1:
            control = data[start:at]
    if found is None or data[found.start()] == _END:
        raise cut_short("GIF")
    return data[:begin] + control + data[found.start() :]


def _behind_blocks(data: bytes, at: int, parts: int) -> tuple[int, int]:
    """Where the blocks that begin at a byte end, and how many parts of the file there are by then."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
        parts += 1
        if parts > MAX_PARTS:
            break
    if parts > MAX_PARTS:
        raise too_many("GIF", "blocks before its first frame", MAX_PARTS)
    if at >= len(data):
        raise cut_short("GIF")
    return at + 1, parts
