"""The largest requests of every kind that the service takes, or refuses only when it has received them."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

_MIB = 2**20
# The largest body, with some bytes to spare for what stands around the picture.
_BODY = 32 * _MIB - 4096
_HEADER = 32_000
_PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
_END = b"\r\n--b--\r\n"
_FORM = {"Content-Type": "multipart/form-data; boundary=b"}
_JSON = {"Content-Type": "application/json"}
_PREDICT = "/v1/models/tf_efficientnet_lite0:predict"


@dataclass(frozen=True, slots=True)
class Extreme:
    """A request.

    Attributes:
        name: in a few words.
        make: its body.
        headers: besides `Host` and those of the length.
        path: with the query.
        chunk_bytes: length of the chunks that it comes in; 0 for one with a declared length.
        repeats: how often it is sent at once on one connection.
    """

    name: str
    make: Callable[[], bytes] = bytes
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/v1/predict"
    chunk_bytes: int = 0
    repeats: int = 1

    def wire(self) -> bytes:
        """All of it as it goes through the socket."""
        body = self.make()
        chunked = f"{self.chunk_bytes:x}\r\n".encode()
        length = ("Transfer-Encoding", "chunked") if self.chunk_bytes else ("Content-Length", str(len(body)))
        fields = {"Host": "x"} | self.headers | dict([length])
        if self.repeats == 1:
            fields["Connection"] = "close"
        method = "POST" if body else "GET"
        lines = [f"{name}: {value}" for name, value in fields.items()]
        head = "\r\n".join([f"{method} {self.path} HTTP/1.1", *lines, "", ""]).encode("latin-1")
        if self.chunk_bytes:
            chunk = chunked + body[: self.chunk_bytes] + b"\r\n"
            body = chunk * (len(body) // len(chunk)) + b"0\r\n\r\n"
        return (head + body) * self.repeats


def bmp(size_bytes: int) -> bytes:
    """A picture whose file is nearly so long."""
    side = int((size_bytes / 3) ** 0.5) // 4 * 4
    file = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(file, "BMP")
    return file.getvalue()


def _in_json(text: bytes) -> bytes:
    return b'{"image": {"b64": "' + text + b'"}}'


def _field(value: bytes) -> bytes:
    return b'{"image": {"b64": ""}, "model": ' + value + b"}"


def _instances(count: int) -> bytes:
    text = base64.b64encode(bmp(_BODY // count * 3 // 4 - 200)).decode()
    return json.dumps({"instances": [{"image": {"b64": text}}] * count}).encode()


def _repeated(text: bytes, size: int = _BODY) -> bytes:
    return text * (size // len(text))


def _form(text: bytes) -> bytes:
    return _PART + _repeated(text, _BODY - 200) + _END


def _text_part(name: str, value: bytes, header: bytes = b"") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n'.encode() + header + b"\r\n" + value + b"\r\n"


def bodies() -> Iterator[Extreme]:
    """One of every kind of body."""
    yield Extreme("a picture of 32 MiB", lambda: bmp(_BODY), {"Content-Type": "image/bmp"})
    yield Extreme("32 MiB that are no picture", lambda: bytes(_BODY), {"Content-Type": "image/bmp"})
    yield Extreme("JSON: base64", lambda: _in_json(base64.b64encode(bmp(_BODY * 3 // 4 - 99))), _JSON)
    yield Extreme("JSON: base64, all of it `\\u0041`", lambda: _in_json(_repeated(b"\\u0041")), _JSON)
    yield Extreme("JSON: base64, all of it `\\/`", lambda: _in_json(_repeated(b"\\/")), _JSON)
    yield Extreme("JSON: another field", lambda: _field(b'"' + _repeated(b"x") + b'"'), _JSON)
    yield Extreme("JSON: another field of 1 MB", lambda: _field(b'"' + _repeated(b"x", 10**6) + b'"'), _JSON)
    yield Extreme("JSON: 4,096 values", lambda: _field(b"[" + (b'"' + b"x" * 240 + b'",') * 4094 + b"1]"), _JSON)
    yield Extreme("JSON: opening brackets", lambda: _repeated(b"["), _JSON)
    yield Extreme("JSON: spaces", lambda: b"{" + _repeated(b" ") + b"}", _JSON)
    yield Extreme("JSON: quotes", lambda: _repeated(b'"'), _JSON)
    yield Extreme("JSON: escaped quotes", lambda: _field(b'"' + _repeated(b'\\"') + b'"'), _JSON)
    yield Extreme("JSON: commas", lambda: _field(b"[" + _repeated(b"1,") + b"1]"), _JSON)
    for count in (1, 64):
        yield Extreme(f"KServe: {count} instances", partial(_instances, count), _JSON, _PREDICT)
    yield Extreme("form: a file", lambda: _PART + bmp(_BODY - 200) + _END, _FORM)
    yield Extreme("form: a file of CR", lambda: _form(b"\r"), _FORM)
    yield Extreme("form: a file of CR LF - -", lambda: _form(b"\r\n--"), _FORM)
    yield Extreme("form: a file of broken boundaries", lambda: _form(b"\r\n--bX"), _FORM)
    yield Extreme("form: 64 files", lambda: (_PART + bytes(_BODY // 65) + b"\r\n") * 64 + b"--b--\r\n", _FORM)
    yield Extreme("form: 256 fields", lambda: _text_part("target", b"x" * 4000) * 256 + _PART + b"x" + _END, _FORM)
    header = b"X: " + b"y" * 4000 + b"\r\n"
    yield Extreme("form: headers", lambda: _text_part("target", b"x", header * 7) * 256 + _PART + b"x" + _END, _FORM)
    yield Extreme("form: parts without end", lambda: _repeated(_text_part("target", b"")) + b"--b--\r\n", _FORM)
    for size in (1, 2, 3, 17):
        name = f"4 MiB in chunks of {size}"
        yield Extreme(name, lambda: bytes(4 * _MIB), {"Content-Type": "image/bmp"}, chunk_bytes=size)


def headers() -> Iterator[Extreme]:
    """One of every kind of header."""
    yield Extreme("query: fields", path="/v1/methods?" + "a&" * (_HEADER // 2))
    yield Extreme("query: 256 fields", path="/v1/methods?" + "&".join(["a=%41"] * 256))
    yield Extreme("query: percent signs", path="/v1/methods?a=" + "%" * _HEADER)
    yield Extreme("path: percent signs", path="/" + "%" * _HEADER)
    yield Extreme("Accept: media types", headers={"Accept": "a," * (_HEADER // 2)}, path="/")
    cookie = 'a="' + "\\" * _HEADER + '"'
    yield Extreme("Cookie: backslashes in quotes", headers={"Cookie": cookie}, path="/livez")
    yield Extreme("Range: ranges", headers={"Range": "bytes=" + "0-0," * (_HEADER // 4)}, path="/page/main.js")
    yield Extreme("Authorization", headers={"Authorization": "Bearer " + "x" * _HEADER}, path="/livez")
    yield Extreme("Content-Type: parameters", lambda: b"x", {"Content-Type": "multipart/form-data; " + "a=b; " * 6000})
    yield Extreme("256 headers", headers={f"X-{number}": "x" * 99 for number in range(250)}, path="/livez")
    yield Extreme("10,000 headers", headers={f"X-{number}": "" for number in range(10_000)}, path="/livez")
    yield Extreme("10,000 requests at once", path="/livez", repeats=10_000)
