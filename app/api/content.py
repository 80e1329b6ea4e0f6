"""The content type of a request: media type and parameters."""

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from app.errors import UnsupportedMediaType

# Of a body, besides its pictures.
MAX_TEXT_BYTES = 2**20

_MAX_CONTENT_TYPE_BYTES = 1024
# ASCII is a subset of UTF-8. No other encoding is ever looked up: Python knows many, and some are slow.
_UTF_8 = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})


def content_type_of(request: Request) -> tuple[str, dict[bytes, bytes]]:
    """The media type of a body, empty where there is none, and its parameters.

    Raises:
        UnsupportedMediaType: it is too long.
    """
    header = request.headers.get("content-type", "")
    if len(header) > _MAX_CONTENT_TYPE_BYTES:
        expected = f"at most {_MAX_CONTENT_TYPE_BYTES} characters"
        message = f"the content type is too long: {expected} are allowed"
        raise UnsupportedMediaType(message, field="Content-Type", expected=expected)
    media_type, parameters = parse_options_header(header)
    return media_type.decode("latin-1"), parameters


def check_charset(
    parameters: dict[bytes, bytes], field: str = "Content-Type", also: frozenset[bytes] = frozenset()
) -> None:
    """Refuses text in any encoding but UTF-8.

    Args:
        parameters: of the media type.
        field: the field or header that names it.
        also: further names that are accepted, in lower case.

    Raises:
        UnsupportedMediaType: the charset is another one.
    """
    charset = parameters.get(b"charset", b"utf-8").strip()
    if charset.lower() not in _UTF_8 | also:
        message = f"the charset '{charset[:80].decode('latin-1')}' is not supported"
        raise UnsupportedMediaType(message, field=field, expected="charset=utf-8, or none")
