"""Mixed requests that are made again and again, and the right answer to each, from when it was asked alone."""

import binascii
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from testing.load import OF_XGRADCAM, TOLERANCE, Variant, variants
from testing.pictures import encoded, photograph
from testing.wire import Connections, Reply, post

# Of a hundred requests; mistakes are what the service refuses.
SHARES = {"explain as JSON": 40, "explain as PNG": 30, "predict": 16, "compare": 9, "mistake": 5}
# Rounding may move a level of the heatmap, and a level of colour a little more; never the mean.
_MEAN_LEVELS = 2.0
_JSON, _PNG = "application/json", "image/png"


@dataclass(slots=True)
class Query:
    """One request.

    Attributes:
        name: what it asks.
        kind: one of `SHARES`.
        request: all its bytes.
        known: the right answer, once it is known.
    """

    name: str
    kind: str
    request: bytes
    known: "Known | None" = None


@dataclass(slots=True)
class Known:
    """The right answer to a query.

    Attributes:
        status: of HTTP.
        content: the JSON, of the body or of the header beside a picture.
        pictures: every picture of it, decoded.
        seen: digests of pictures that have been looked at: most come again, byte for byte.
    """

    status: int
    content: Any
    pictures: list[np.ndarray]
    seen: set[bytes] = field(default_factory=set)

    @classmethod
    def of(cls, reply: Reply) -> "Known":
        """Takes a reply for the right answer."""
        content, files = _parts(reply)
        return cls(reply.status, content, [_decoded(file) for file in files], set(map(_digest, files)))

    def differences(self, reply: Reply) -> list[str]:
        """What is wrong with another reply to the same query."""
        if reply.status != self.status:
            return [f"{reply.status} instead of {self.status}: {reply.body[:200]!r}"]
        try:
            content, files = _parts(reply)
        except (ValueError, KeyError) as error:
            return [f"cannot be read: {error!r}"]
        if self.status != 200:
            return [] if content == self.content else [f"{content} instead of {self.content}"]
        wrong = list(_differences(content, self.content))
        if len(files) != len(self.pictures):
            return [*wrong, f"{len(files)} pictures instead of {len(self.pictures)}"]
        of_xgradcam = "xgradcam" in json.dumps(self.content.get("method", ""))
        for number, (file, expected) in enumerate(zip(files, self.pictures, strict=True)):
            if (digest := _digest(file)) in self.seen:
                continue
            fault = _fault_of(file, expected, exact=not of_xgradcam)
            if fault is None:
                self.seen.add(digest)
            else:
                wrong.append(f"picture {number}: {fault}")
        return wrong


@dataclass
class Traffic:
    """Queries with their right answers."""

    queries: dict[str, list[Query]]

    def draw(self, seed: int) -> Iterator[Query]:
        """Queries in random order, each kind with its share, without end."""
        chance = random.Random(seed)
        kinds = [kind for kind in SHARES if self.queries[kind]]
        while True:
            (kind,) = chance.choices(kinds, [SHARES[kind] for kind in kinds])
            yield chance.choice(self.queries[kind])


async def learn(url: str, most: int | None = None) -> Traffic:
    """Asks every query alone, and takes what comes for right.

    Args:
        url: of the service.
        most: of each kind, for a short run; None for all.
    """
    by_kind: dict[str, list[Query]] = {kind: [] for kind in SHARES}
    connections = Connections(url)
    for query in _queries():
        if most is not None and len(by_kind[query.kind]) >= most:
            continue
        reply = await connections.call(query.request)
        if (reply.status == 200) == (query.kind == "mistake"):
            raise RuntimeError(f"{query.name} is answered with {reply.status}: {reply.body[:300]!r}")
        query.known = Known.of(reply)
        by_kind[query.kind].append(query)
    await connections.close()
    return Traffic(by_kind)


def _queries() -> Iterator[Query]:
    # Other methods and layers follow each other, so that the first few are no family.
    chosen = [variant for variant in variants() if not variant.is_long]
    random.Random(0).shuffle(chosen)
    for number, variant in enumerate(chosen):
        # Only mistakes of the mixed requests name no method.
        if not any(name == "method" for name, _ in variant.fields):
            yield _query("mistake", "/v1/explain", variant, _JSON)
            continue
        yield _query("explain as JSON", "/v1/explain", variant, _JSON)
        if number % 2:
            yield _query("explain as PNG", "/v1/explain", variant, _PNG)
    coffee, rocket = photograph("coffee"), photograph("rocket")
    pictures = {
        "JPEG of 6 megapixels": encoded(coffee.resize((3000, 2000)), "JPEG", quality=85),
        "JPEG": encoded(coffee, "JPEG"),
        "PNG": encoded(photograph("astronaut"), "PNG"),
        "TIFF": encoded(photograph("chelsea"), "TIFF"),
        "WEBP": encoded(rocket.resize((320, 214)), "WEBP"),
    }
    for name, picture in pictures.items():
        yield _query("predict", "/v1/predict", Variant(f"predict {name}", (("top_k", "7"),), picture), _JSON)
    for number, (methods, targets) in enumerate(
        [
            (("gradcam", "shapleycam"), ("predicted",)),
            (("shapleycam-h", "layercam", "hirescam"), ("predicted",)),
            (("gradcam++",), ("predicted", "least-likely", "285")),
            (("shapleycam",), ("predicted", "504")),
        ]
    ):
        layer = ("pre_gap", "last_conv")[number % 2]
        fields = [("layer", layer), *(("method", method) for method in methods), ("max_side", "320")]
        fields += [("target", target) for target in targets]
        variant = Variant(f"compare {methods} {targets}", tuple(fields), list(pictures.values())[1 + number])
        yield _query("compare", "/v1/compare", variant, _PNG if number == 3 else _JSON)


def _query(kind: str, path: str, variant: Variant, accept: str) -> Query:
    headers = {"Content-Type": "image/jpeg", "Accept": accept}
    return Query(f"{kind}: {variant.name}", kind, post(path, variant.body, headers, variant.fields))


def _parts(reply: Reply) -> tuple[Any, list[bytes]]:
    """The JSON of a reply, and the files of its pictures, in order."""
    if reply.headers["content-type"] == _PNG:
        # A contact sheet stands alone, an overlay has its figures beside it.
        return json.loads(reply.headers.get("x-explanation", "{}")), [reply.body]
    content = json.loads(reply.body)
    files: list[bytes] = []
    _take_pictures(content, files)
    return content, files


def _take_pictures(node: Any, files: list[bytes]) -> None:
    if isinstance(node, list):
        for item in node:
            _take_pictures(item, files)
    elif isinstance(node, dict):
        if "b64" in node:
            files.append(binascii.a2b_base64(node.pop("b64")))
        for item in node.values():
            _take_pictures(item, files)


def _digest(file: bytes) -> bytes:
    return hashlib.blake2b(file, digest_size=16).digest()


def _decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(file), formats=["PNG"]))


def _fault_of(file: bytes, expected: np.ndarray, *, exact: bool) -> str | None:
    try:
        found = _decoded(file)
    except (OSError, SyntaxError) as error:
        return f"does not decode: {error!r}"
    if found.shape != expected.shape:
        return f"{found.shape} instead of {expected.shape}"
    if exact and np.abs(found.astype(np.int16) - expected).mean() > _MEAN_LEVELS:
        return "another picture"
    return None


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    """Compares the JSON of two replies: what must be equal, and what rounding may move."""
    if found.keys() != expected.keys():
        yield f"fields {sorted(found)} instead of {sorted(expected)}"
        return
    same = ("model", "layer", "layer_path", "method", "utility", "device", "weights", "image", "view")
    yield from (name for name in same if found.get(name) != expected.get(name))
    yield from _of_predictions(found.get("predictions", []), expected.get("predictions", []))
    explanations = found.get("explanations", []), expected.get("explanations", [])
    if len(explanations[0]) != len(explanations[1]):
        yield f"{len(explanations[0])} explanations instead of {len(explanations[1])}"
        return
    for one, other in zip(*explanations, strict=True):
        yield from _of_explanation(one, other)


def _of_predictions(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> Iterator[str]:
    if [one["index"] for one in found] != [other["index"] for other in expected]:
        yield "predicted classes"
    elif found and not _are_near([one["logit"] for one in found], [other["logit"] for other in expected], TOLERANCE):
        yield "logits"


def _of_explanation(found: dict[str, Any], expected: dict[str, Any]) -> Iterator[str]:
    same = ("method", "utility", "forward_passes", "warnings")
    yield from (name for name in same if found[name] != expected[name])
    if found["target"]["index"] != expected["target"]["index"]:
        yield "target"
    if (found["metrics"] is None) != (expected["metrics"] is None):
        yield "metrics"
    one, other = found["attribution"], expected["attribution"]
    if (one is None) != (other is None):
        yield "attribution"
    elif one is not None and "values" in other:
        tolerance = OF_XGRADCAM if found["method"] == "xgradcam" else TOLERANCE
        if one["shape"] != other["shape"] or not _are_near(one["values"], other["values"], tolerance):
            yield "attribution"


def _are_near(found: Any, expected: Any, tolerance: float) -> bool:
    one, other = np.array(found, float), np.array(expected, float)
    return bool(np.abs(one - other).max() <= tolerance * np.abs(other).max())
