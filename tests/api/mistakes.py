"""What a caller can send wrongly, and how each mistake is answered."""

import base64
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

from testing.pictures import encoded, photograph
from tests.api.asking import JSON

IMAGE = encoded(photograph("chelsea"), "JPEG", quality=90)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="64" height="64"/></svg>'
B64 = base64.b64encode(IMAGE).decode()
LARGE = encoded(Image.new("L", (8000, 4000)), "PNG")
# Its pixels are gone: whoever decodes it finds it unreadable.
LARGE_BROKEN = LARGE.replace(b"IDAT" + LARGE.partition(b"IDAT")[2][:32], b"IDAT" + bytes(32))


@dataclass(frozen=True, slots=True)
class Mistake:
    """A request that is wrong, and its answer.

    Attributes:
        name: what is wrong.
        status, code: of the answer.
        field: what `detail.field` says; None where no field is to blame.
        request: what httpx posts.
        path: where to.
        says: what the message or `detail.expected` must hold.
    """

    name: str
    status: int
    code: str
    field: str | None
    request: dict[str, Any] = field(default_factory=dict)
    path: str = "/v1/explain"
    says: str = ""


def form(**fields: Any) -> dict[str, Any]:
    return {"files": {"image": IMAGE}, "data": fields}


def raw(body: bytes, content_type: str) -> dict[str, Any]:
    return {"content": body, "headers": {"content-type": content_type}}


def text(body: str | bytes) -> dict[str, Any]:
    return {"content": body, "headers": JSON}


def in_json(fields: str) -> dict[str, Any]:
    """A JSON body with a good image and further fields as they are written."""
    return text(f'{{"image": {{"b64": "{B64}"}}, {fields}}}')


def part(name: str, value: bytes, *more: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f'Content-Disposition: form-data; name="{name}"', *more))
    return b"--b\r\n" + head.encode() + b"\r\n" + value + b"\r\n"


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data has not."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def parameter(name: str, value: Any, *, says: str = "", path: str = "/v1/explain", **others: Any) -> Mistake:
    called = f"{name}={str(value)[:20]}"
    return Mistake(called, 422, "invalid_parameter", name, form(**{name: value}, **others), path, says)


def unreadable(name: str, request: dict[str, Any], field: str | None = None) -> Mistake:
    return Mistake(name, 400, "malformed_body", field, request)


def invalid(name: str, field: str, request: dict[str, Any], path: str = "/v1/explain", says: str = "") -> Mistake:
    return Mistake(name, 422, "invalid_parameter", field, request, path, says)


def unsupported(name: str, field: str, request: dict[str, Any]) -> Mistake:
    return Mistake(name, 415, "unsupported_media_type", field, request)


def assert_named(mistake: Mistake, response: httpx.Response) -> None:
    """The answer says what is wrong, what the field takes, and nothing beyond, in time."""
    body = response.json()
    assert (response.status_code, body.get("code")) == (mistake.status, mistake.code), body
    assert list(body) == ["error", "code", "detail"], body
    assert body["detail"].get("field") == mistake.field, body
    if mistake.field is not None:
        assert body["detail"]["expected"], body
    assert mistake.says in body["error"] + str(body["detail"].get("expected")), body
    assert len(response.content) < 10_000
    assert response.elapsed.total_seconds() < 5


FILES = [
    unsupported("a text named .jpg", "image", {"files": {"image": ("photo.jpg", b"hello, world", "image/jpeg")}}),
    unsupported("an SVG", "image", {"files": {"image": ("a.svg", SVG, "image/svg+xml")}}),
    unsupported("an SVG as the body", "image", raw(SVG, "image/svg+xml")),
    unsupported("an empty file", "image", {"files": {"image": ("photo.jpg", b"")}}),
    unsupported("empty base64", "image", text('{"image": {"b64": ""}}')),
    Mistake("half a JPEG", 422, "image_unreadable", "image", {"files": {"image": IMAGE[: len(IMAGE) // 2]}}),
    Mistake("half a JPEG as the body", 422, "image_unreadable", "image", raw(IMAGE[: len(IMAGE) // 2], "image/jpeg")),
    Mistake("1 x 1", 422, "image_too_small", "image", {"files": {"image": encoded(Image.new("RGB", (1, 1)), "PNG")}}),
    Mistake("50,000 x 50,000", 413, "too_many_pixels", "image", {"files": {"image": claiming(50_000, 50_000)}}),
    Mistake("half a JPEG to predict", 422, "image_unreadable", "image", raw(IMAGE[:9999], "image/jpeg"), "/v1/predict"),
]

BODIES = [
    invalid("no body", "image", {}),
    invalid("an empty body", "image", raw(b"", "image/jpeg")),
    invalid("no file", "image", raw(part("alpha", b"0.5") + b"--b--\r\n", "multipart/form-data; boundary=b")),
    invalid("no image in JSON", "image", text("{}")),
    invalid("a null image", "image", text('{"image": null}')),
    invalid("an image that is a string", "image", text(json.dumps({"image": B64}))),
    invalid("an image with more than b64", "image", text(json.dumps({"image": {"b64": B64, "url": "x"}}))),
    invalid("an image that is text", "image", raw(part("image", b"x") + b"--b--", "multipart/form-data; boundary=b")),
    invalid("two files", "image", {"files": [("image", IMAGE), ("image", IMAGE)]}),
    invalid("a file under another name", "photo", {"files": {"photo": IMAGE}}),
    unreadable("an empty form", raw(b"", "multipart/form-data; boundary=b")),
    unreadable("a form without boundary", raw(part("alpha", b"1"), "multipart/form-data")),
    unreadable("a form with another boundary", raw(part("alpha", b"1"), "multipart/form-data; boundary=c")),
    unreadable("a cut form", raw(part("image", IMAGE, "Content-Type: image/jpeg"), "multipart/form-data; boundary=b")),
    unreadable("a form cut in its header", raw(b"--b\r\nContent-Dispo", "multipart/form-data; boundary=b")),
    unreadable("a form of garbage", raw(b"\0" * 999, "multipart/form-data; boundary=b")),
    unreadable("a part without a name", raw(b"--b\r\nX: y\r\n\r\nz\r\n--b--", "multipart/form-data; boundary=b")),
    unreadable("too many parts", raw(part("target", b"1") * 300 + b"--b--", "multipart/form-data; boundary=b")),
    unreadable("an empty JSON body", text("")),
    unreadable("no JSON", text("{'image': 1}")),
    unreadable("cut JSON", text('{"image": {"b64": "')),
    unreadable("a JSON array", text("[]")),
    unreadable("a JSON string", text('"image"')),
    unreadable("a JSON null", text("null")),
    unreadable("JSON that is no UTF-8", text(b'{"image": "\xff"}')),
    unreadable("deep JSON", text('{"image": ' + "[" * 100_000 + "]" * 100_000 + "}")),
    unreadable("NaN in JSON", in_json('"alpha": NaN')),
    unreadable("Infinity in JSON", in_json('"alpha": Infinity')),
    unreadable("no base64", text('{"image": {"b64": "this is no base64!"}}'), "image.b64"),
    unreadable("base64 without padding", text(json.dumps({"image": {"b64": B64[:-3]}})), "image.b64"),
    unreadable("base64 for URLs", text('{"image": {"b64": "_-_-"}}'), "image.b64"),
    unreadable("base64 in other letters", text('{"image": {"b64": "éééé"}}'), "image.b64"),
    unsupported("an urlencoded form", "Content-Type", {"data": {"image": "x"}}),
    unsupported("a body without a type", "Content-Type", {"content": IMAGE}),
    unsupported("a body of another type", "Content-Type", raw(IMAGE, "application/octet-stream")),
    invalid("a JSON body of millions of values", "body", text('{"include": [' + "1," * 10**6 + "1]}")),
]

FIELDS = [
    Mistake("an unknown model", 404, "unknown_model", "model", form(model="vgg99"), says="tf_efficientnet_lite0"),
    Mistake("a very long model", 404, "unknown_model", "model", in_json(f'"model": "{"x" * 10**6}"')),
    Mistake("an unknown model to predict", 404, "unknown_model", "model", form(model="vgg99"), "/v1/predict"),
    parameter("model", "../etc"),
    parameter("layer", "nowhere.at.all"),
    parameter("layer", "last_norm", says="pre_gap"),
    parameter("layer", ""),
    parameter("layer", "classifier", says="no spatial grid"),
    parameter("layer", "fc", model="small", says="no spatial grid"),
    parameter("layer", "x" * 10**6),
    parameter("method", "eigencam", says="shapleycam"),
    parameter("method", "cam", layer="last_conv", utility="pre-softmax", says="global average pooling"),
    parameter("method", "cam", says="pre-softmax"),
    parameter("utility", "softmax", says="rest"),
    parameter("target", "1000", says="999"),
    parameter("target", "-1", says="999"),
    parameter("target", "9" * 5000, says="999"),
    parameter("target", "unicorn on a bicycle"),
    parameter("target", ""),
    parameter("target", "tiger_cat", says="tiger cat"),
    parameter("target", "crane", model="small", says="0, 1"),
    parameter("target", "CARDIGAN", model="small", says="2, 3"),
    parameter("target", [str(index) for index in range(17)], says="16"),
    parameter("colormap", "rainbow-dash"),
    parameter("alpha", "7", says="from 0 to 1"),
    parameter("alpha", "-0.1"),
    parameter("alpha", "nan"),
    parameter("alpha", "inf"),
    parameter("alpha", "half"),
    parameter("max_side", "5"),
    parameter("max_side", "15"),
    parameter("max_side", "-1"),
    parameter("max_side", "8193"),
    parameter("max_side", "16.5"),
    parameter("top_k", "0"),
    parameter("top_k", "1001", says="1 to 1000"),
    parameter("top_k", "11", model="small", says="1 to 10"),
    parameter("top_k", "1001", path="/v1/predict"),
    parameter("fit", "cover", says="crop"),
    parameter("include", "everything"),
    parameter("include", ""),
    parameter("include", ",".join("x" * 10**5)),
    parameter("metrics", "perhaps"),
    parameter("smooth", "rotate", says="flip-scale"),
    parameter("reference", "lime", says="shapley-sampling"),
    parameter("reference", "shapley-sampling", layer=["pre_gap", "last_conv"], says="several"),
    parameter("seed", "-1"),
    parameter("seed", str(2**63)),
    parameter("permutations", "3"),
    parameter("permutations", "65538"),
    parameter("nodes", "65"),
    parameter("tolerance", "0"),
    parameter("tolerance", "inf"),
    parameter("colour", "red"),
    parameter("layer", "pre_gap", path="/v1/predict"),
    invalid("a field twice", "alpha", form(alpha=["0.1", "0.2"])),
    invalid("a layer twice", "layer", form(layer=["last_conv", "last_conv"]), says="each once"),
    invalid("a layer twice in one value", "layer", form(layer="last_conv,last_conv"), says="each once"),
    invalid("two names of one layer", "layer", form(layer=["pre_gap", "bn2"]), says="each layer once"),
    invalid("nine layers", "layer", form(layer=[f"blocks.{index}" for index in range(9)]), says="at most 8"),
    invalid("an empty layer among others", "layer", form(layer="pre_gap,")),
    invalid("no layer", "layer", in_json('"layer": []')),
    invalid("a number for a layer", "layer", in_json('"layer": [1]')),
    invalid("a list of methods", "method", in_json('"method": ["gradcam"]')),
    invalid(
        "attention for liftcam", "method", form(model="vit", method="liftcam"), says="no rule for scaled_dot_product"
    ),
    invalid("a field twice in the query", "fit", {**raw(IMAGE, "image/jpeg"), "params": {"fit": ["crop", "pad"]}}),
    invalid("a field in form and query", "fit", {**form(fit="pad"), "params": {"fit": "pad"}}),
    invalid("a field in JSON and query", "fit", {**in_json('"fit": "pad"'), "params": {"fit": "pad"}}),
    invalid("a key of JSON twice", "fit", in_json('"fit": "pad", "fit": "pad"')),
    invalid("an image of JSON twice", "image", in_json('"image": {"b64": ""}')),
    invalid("another picture", "image", {**raw(IMAGE, "image/jpeg"), "params": {"image": "sketch"}}, says="heatmap"),
    invalid("two pictures", "image", {**raw(IMAGE, "image/jpeg"), "params": {"image": ["overlay", "heatmap"]}}),
    invalid("a picture of a prediction", "image", form() | {"params": {"image": "overlay"}}, "/v1/predict"),
    invalid("an infinite number in JSON", "alpha", in_json('"alpha": 1e999')),
    invalid("a long number in JSON", "target", in_json(f'"target": {"9" * 5000}'), says="999"),
    invalid("a long seed in JSON", "seed", in_json(f'"seed": {"9" * 5000}')),
    invalid("a text for a number in JSON", "seed", in_json('"seed": "5"'), says="5"),
    invalid("a boolean for a number in JSON", "top_k", in_json('"top_k": true'), says="true"),
    invalid("a text for a boolean in JSON", "metrics", in_json('"metrics": "false"'), says="false"),
    invalid("a number for a boolean in JSON", "metrics", in_json('"metrics": 0'), says="0"),
    invalid("a list for a number", "alpha", in_json('"alpha": [[[[]]]]')),
    invalid("a deep list for a number", "alpha", in_json('"alpha": ' + "[" * 900 + "]" * 900)),
    invalid("an object for a target", "target", in_json('"target": {"a": 1}')),
    invalid("a fraction for a target", "target", in_json('"target": [1.5]')),
    invalid("a boolean for a target", "target", in_json('"target": true')),
    invalid("no target", "target", in_json('"target": []')),
    invalid("a null", "alpha", in_json('"alpha": null')),
    invalid("a null for a list", "include", in_json('"include": null')),
    invalid("half a surrogate pair as a label", "target", in_json(r'"target": "\ud800"')),
    invalid("half a surrogate pair as a name", "?", in_json(r'"\ud800": 1')),
    invalid("half a surrogate pair as a layer", "layer", in_json(r'"layer": "\ud800"')),
    invalid("half a surrogate pair as a model", "model", in_json(r'"model": "\ud800"')),
    invalid("a long name", "x" * 2000 + "...", in_json(f'"{"x" * 10**6}": 1')),
]

COMPARE = "/v1/compare"


def large(image: bytes, **fields: Any) -> dict[str, Any]:
    """A comparison whose overlays have the size of the picture."""
    return {**raw(image, "image/png"), "params": {"max_side": "0", **fields}}


SIXTY_FIVE_CELLS = {
    "method": ["gradcam", "layercam", "shapleycam", "hirescam", "fakecam"],
    "target": [str(index) for index in range(13)],
}

COMPARISONS = [
    parameter("method", "eigencam", path=COMPARE, says="shapleycam"),
    parameter("method", ["gradcam", "eigencam"], path=COMPARE, says="shapleycam"),
    parameter("method", ["gradcam", "gradcam"], path=COMPARE, says="each once"),
    parameter("method", "gradcam,gradcam", path=COMPARE, says="each once"),
    parameter("method", "gradcam,", path=COMPARE),
    parameter("method", ["gradcam", "cam"], path=COMPARE, says="pre-softmax"),
    parameter("method", ["gradcam", "cam"], path=COMPARE, utility="pre-softmax", layer="last_conv", says="pooling"),
    parameter("utility", ["rest", "softmax"], path=COMPARE, says="rest"),
    parameter("utility", ["rest", "rest"], path=COMPARE, says="each once"),
    parameter("target", "unicorn on a bicycle", path=COMPARE),
    parameter("target", [str(index) for index in range(17)], path=COMPARE, says="16"),
    parameter("include", "explanation_map", path=COMPARE, says="sheet, overlay, heatmap, attribution"),
    parameter("max_side", "15", path=COMPARE),
    parameter("reference", "shapley-sampling", path=COMPARE, layer="pre_gap,last_conv", says="several"),
    invalid("65 cells", "method", form(**SIXTY_FIVE_CELLS), COMPARE, says="at most 64 cells"),
    invalid("no method", "method", in_json('"method": []'), COMPARE),
    invalid("a null for the methods", "method", in_json('"method": null'), COMPARE),
    invalid("a number for a method", "method", in_json('"method": [1]'), COMPARE),
    invalid("thousands of methods", "method", form(method=",".join("x" * 10**5)), COMPARE),
    invalid("a picture of a comparison", "image", form() | {"params": {"image": "overlay"}}, COMPARE, says="no field"),
    invalid("a large sheet", "max_side", large(LARGE), COMPARE, says="33554432 px"),
    invalid("large cells", "max_side", large(LARGE, target=["1", "2"], include="overlay"), COMPARE, says="33554432 px"),
    invalid("a large sheet of no picture", "max_side", large(LARGE_BROKEN), COMPARE, says="px"),
    invalid("large cells of none", "max_side", large(LARGE_BROKEN, target=["1", "2"], include="overlay"), COMPARE),
    Mistake("no picture", 422, "image_unreadable", "image", large(LARGE_BROKEN, include="heatmap"), COMPARE),
    invalid("a comparison of nothing", "image", raw(b"", "image/jpeg"), COMPARE),
    Mistake("half a JPEG to compare", 422, "image_unreadable", "image", raw(IMAGE[:9999], "image/jpeg"), COMPARE),
]
