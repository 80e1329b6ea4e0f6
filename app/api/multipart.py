"""Reads multipart bodies: a file and short fields; no step blocks other threads for long."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.content import MAX_TEXT_BYTES, check_charset
from app.errors import InvalidParameter, MalformedBody, ServiceError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FILES = 64
_MAX_FIELDS = 256
_TOO_MANY_PARTS = f"too many parts: at most {_MAX_FILES} files and {_MAX_FIELDS} fields are allowed"
_PIECE_BYTES = 2**20
# Java's best-known client declares every field as this. Text that is not valid UTF-8 is read as Latin-1 anyway.
_LATIN_1 = frozenset({b"iso-8859-1"})


@dataclass(slots=True)
class FormPart:
    """A part of a body.

    Attributes:
        name: of the field.
        is_file: whether it has a file name; else it is text.
        pieces: the content.
    """

    name: str
    is_file: bool
    pieces: list[bytes] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        """The whole content."""
        return b"".join(self.pieces)

    @property
    def text(self) -> str:
        """The content as text; old browsers send it as Latin-1."""
        return _decode(self.data)


def read_multipart(body: bytes, boundary: bytes | None) -> list[FormPart]:
    """Takes a body apart; blocks.

    Args:
        body: the whole body.
        boundary: from its content type.

    Raises:
        MalformedBody: the body is not valid, incomplete, or has too many parts.
        UnsupportedMediaType: a text in another encoding than UTF-8.
        InvalidParameter: too much text.
    """
    if not boundary:
        raise _malformed("its content type has no boundary")
    _check_delimiters(body, b"\r\n--" + boundary)
    collector = _PartCollector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        for start in range(0, len(body), _PIECE_BYTES):
            parser.write(body[start : start + _PIECE_BYTES])
    except FormParserError as error:
        raise _malformed(str(error)) from None
    if not collector.is_complete:
        raise MalformedBody("the multipart body ends before its closing boundary")
    return collector.parts


def _check_delimiters(body: bytes, delimiter: bytes) -> None:
    """Refuses what looks like too many parts: at each the parser calls back from C into Python.

    Raises:
        MalformedBody: there are too many.
    """
    found = 0
    for start in range(0, len(body), _PIECE_BYTES):
        found += body.count(delimiter, start, start + _PIECE_BYTES + len(delimiter) - 1)
        if found > _MAX_FILES + _MAX_FIELDS:
            raise _malformed(_TOO_MANY_PARTS)


class _PartCollector:
    """Collects the parts that the parser finds."""

    def __init__(self) -> None:
        self.parts: list[FormPart] = []
        self.is_complete = False
        self._text_bytes = 0
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""

    def callbacks(self) -> "MultipartCallbacks":
        """The functions that the parser calls."""
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise _malformed("a part has no name")
        part = FormPart(_decode(options[b"name"]), b"filename" in options)
        self.parts.append(part)
        files = sum(part.is_file for part in self.parts)
        if files > _MAX_FILES or len(self.parts) - files > _MAX_FIELDS:
            raise _malformed(_TOO_MANY_PARTS)
        if not part.is_file:
            self._count_text(len(part.name))
            _, parameters = parse_options_header(self._headers.get(b"content-type"))
            check_charset(parameters, part.name, _LATIN_1)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        if not part.is_file:
            self._count_text(end - start)
        part.pieces.append(data[start:end])

    def _end(self) -> None:
        self.is_complete = True

    def _count_text(self, size: int) -> None:
        self._text_bytes += size
        if self._text_bytes > MAX_TEXT_BYTES:
            expected = f"at most {MAX_TEXT_BYTES // 2**10} KiB besides its files"
            raise InvalidParameter(
                f"the multipart body is too long: {expected} are allowed", field="body", expected=expected
            )


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _malformed(reason: str) -> ServiceError:
    return MalformedBody(f"the multipart body is not valid: {reason}")
