"""Which media type a caller prefers."""

from starlette.datastructures import Headers

from app.errors import NotAcceptable


def choose(headers: Headers, offered: tuple[str, ...]) -> str:
    """Picks the offered media type with the highest quality; ties go to the first offered (RFC 9110, 12.5.1).

    Args:
        headers: the request's; several `Accept` lines are one list.
        offered: media types that can be made, the default first.

    Raises:
        NotAcceptable: none of them is accepted.
    """
    accept = ", ".join(headers.getlist("accept"))
    ranges = _parse(accept)
    qualities = {media_type: _quality(media_type, ranges) for media_type in offered}
    best = max(offered, key=qualities.__getitem__)
    if qualities[best] <= 0:
        expected = " or ".join(offered)
        raise NotAcceptable(f"none of the media types '{accept}' can be produced", field="Accept", expected=expected)
    return best


def prefers(headers: Headers, media_type: str, default: str) -> bool:
    """Whether the caller likes a media type better than the one it would get by default."""
    ranges = _parse(", ".join(headers.getlist("accept")))
    return _quality(media_type, ranges) > _quality(default, ranges)


def _parse(accept: str) -> dict[str, float]:
    ranges = {}
    for part in accept.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if not 0 <= quality <= 1:
            quality = 0.0
        if media_range:
            ranges[media_range] = quality
    return ranges or {"*/*": 1.0}


def _quality(media_type: str, ranges: dict[str, float]) -> float:
    """The most specific range that matches decides."""
    family = media_type.partition("/")[0] + "/*"
    for media_range in (media_type, family, "*/*"):
        if media_range in ranges:
            return ranges[media_range]
    return 0.0
