"""Multipart bodies, taken apart."""

import pytest

from app.api.multipart import read_multipart
from app.errors import InvalidParameter, MalformedBody, UnsupportedMediaType

BOUNDARY = b"frontier"
FILE = b"\r\n--frontie\r\n--\r\n\r" * 100_000


def part(name: str, data: bytes, *headers: str, file: bool = False) -> bytes:
    filename = '; filename="a.jpg"' if file else ""
    lines = "".join(f"{line}\r\n" for line in (f'Content-Disposition: form-data; name="{name}"{filename}', *headers))
    return b"--" + BOUNDARY + b"\r\n" + lines.encode() + b"\r\n" + data + b"\r\n"


END = b"--" + BOUNDARY + b"--\r\n"


def test_files_and_texts_come_out_as_they_went_in() -> None:
    body = part("image", FILE, file=True) + part("target", "Ωμέγα".encode()) + part("target", b"caf\xe9") + END
    image, first, second = read_multipart(body, BOUNDARY)
    assert (image.name, image.is_file, image.data) == ("image", True, FILE)
    assert (first.name, first.is_file, first.text) == ("target", False, "Ωμέγα")
    assert second.text == "café", "Latin-1, as it always was"


@pytest.mark.parametrize("shift", range(0, 40, 3))
def test_a_boundary_across_two_pieces_is_found(shift: int) -> None:
    data = b"x" * (2**20 - shift - len(part("image", b"", file=True)))
    (image,) = read_multipart(part("image", data, file=True) + END, BOUNDARY)
    assert image.data == data


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (part("target", b"x") * 257 + END, "at most 64 files and 256 fields"),
        (part("image", b"x", file=True) * 65 + END, "at most 64 files and 256 fields"),
        (part("image", (b"\r\n--" + BOUNDARY + b"x") * 1000, file=True) + END, "too many parts"),
        (part("image", b"x", file=True), "ends before its closing boundary"),
        (b"--" + BOUNDARY + b"\r\nX: y\r\n\r\nz\r\n" + END, "a part has no name"),
        (part("target", b"x", *["X: y"] * 20) + END, "header count"),
        (part("target", b"x", "X: " + "y" * 9000) + END, "header size"),
    ],
)
def test_what_is_no_form_is_malformed(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedBody, match=reason):
        read_multipart(body, BOUNDARY)


def test_as_many_parts_as_there_may_be_are_read() -> None:
    body = part("target", b"x") * 256 + part("image", b"x", file=True) * 64 + END
    assert len(read_multipart(body, BOUNDARY)) == 320


def test_texts_are_bounded_together() -> None:
    with pytest.raises(InvalidParameter, match="at most 1024 KiB besides its files"):
        read_multipart(part("target", b"x" * 2**16) * 17 + END, BOUNDARY)


@pytest.mark.parametrize("charset", ["punycode", "UTF-16", "x" * 1000])
def test_a_text_in_another_encoding_is_refused(charset: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="is not supported"):
        read_multipart(part("target", b"x", f"Content-Type: text/plain; charset={charset}") + END, BOUNDARY)


@pytest.mark.parametrize("charset", ["UTF-8", "us-ascii", "ISO-8859-1"])
def test_texts_of_other_clients_are_read(charset: str) -> None:
    (text,) = read_multipart(part("target", b"x", f"Content-Type: text/plain; charset={charset}") + END, BOUNDARY)
    assert text.text == "x"
