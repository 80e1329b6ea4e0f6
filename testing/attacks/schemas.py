"""Requests made of the service's own OpenAPI document, by Schemathesis, and what its checks say of the replies."""

import base64
import json
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import schemathesis
from hypothesis import strategies as st
from jsonschema_rs import Draft202012Validator
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.transport import Response
from schemathesis.engine import Status, events, from_schema
from schemathesis.transport.serialization import Binary

from testing.attacks.seeds import sound_files

LIMIT_S = 20.0
# What a document cannot say: it is the same for every network, and these belong to the embedded one.
_CLASSES = 1000
_LAYERS = ("pre_gap", "last_conv", "blocks.5", "blocks.6.0", "blocks.6", "conv_stem", "blocks.4.1", "blocks.3")
_TARGETS = ("predicted", "least-likely", "282", "lynx", "0", "999", "goldfish", "17")
# The contract has a 501 for what the Open Inference Protocol offers and the service does not.
_NOT_OFFERED: dict[str, object] = {
    "include-path-regex": "/infer$",
    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", 501]}},
}
# What forms commonly write for a truth; all of it is taken.
_TRUTHS = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n"})
# They take seconds to minutes and are refused where that is over the limit; tests of their own are about them.
_LONG = frozenset({"scorecam", "ablationcam", "shapley-sampling", "aumann-shapley", "liftcam"})
_MOST_PERMUTATIONS = 16


@dataclass(slots=True)
class Findings:
    """What came back, and what is wrong with it.

    Attributes:
        statuses: how often each came; 0 where no reply came.
        operations: how many requests each got.
        accepted: how many of them, by operation, were answered with 200.
        slowest_s: the longest took so long, and what it was.
        over_limit: how many took longer than `LIMIT_S`.
        failures: what checks said, each kind of failure of an operation once.
        errors: what kept Schemathesis from asking.
        checks: how often each check has judged a reply.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    slowest_s: tuple[float, str] = (0.0, "")
    over_limit: int = 0
    failures: dict[tuple[str, str, str], str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    checks: Counter[str] = field(default_factory=Counter)


def pictures() -> st.SearchStrategy[bytes]:
    """Sound files of all formats."""
    return st.sampled_from([data for _, data in sorted(sound_files().items())])


def teach_pictures() -> None:
    """Tells Schemathesis what stands where the document says that a picture does."""
    schemathesis.openapi.format("binary", pictures().map(Binary))
    schemathesis.openapi.format("byte", pictures().map(lambda data: base64.b64encode(data).decode()))


def fuzz(
    url: str,
    examples: int,
    seed: int,
    *,
    headers: dict[str, str] | None = None,
    systematic: bool = True,
    only: str | None = None,
    avoid: str | None = None,
    on_reply: Callable[[Findings], None] = lambda _findings: None,
) -> Findings:
    """Asks whatever the document allows, and what it forbids.

    Args:
        url: of the service.
        examples: requests of the random phase for each operation.
        seed: of all of them.
        headers: sent with each, such as an API key.
        systematic: whether each limit that the document states is tried first, which takes hundreds of requests for
            operations with many fields.
        only: operations whose path matches this; by default all.
        avoid: those whose path matches this are left out.
        on_reply: called after each reply.
    """
    teach_pictures()
    load_all_checks()
    findings, operations = Findings(), [_NOT_OFFERED]
    # Where operations are configured, Schemathesis heeds no other filters.
    if only is not None:
        operations.append({"exclude-path-regex": only, "enabled": False})
    if avoid is not None:
        operations.append({"include-path-regex": avoid, "enabled": False})
    config = schemathesis.Config.from_dict(
        {
            "seed": seed,
            "continue-on-failure": True,
            "request-timeout": 60,
            "warnings": False,
            "headers": headers or {},
            "generation": {"max-examples": examples, "no-shrink": True, "database": "none"},
            "checks": {"enabled": True, "max_response_time": LIMIT_S},
            "phases": {"coverage": {"enabled": systematic}},
            "operations": operations,
        }
    )
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config, headers=headers or {})
    _watch(schema, findings, on_reply)
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _note(event, findings)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            error = event.value if isinstance(event, events.NonFatalError) else event.exception
            findings.errors.append("".join(traceback.format_exception(error))[-3000:])
    return findings


def enabled_checks() -> set[str]:
    """The names of all checks that Schemathesis has."""
    load_all_checks()
    return set(CHECKS.get_all_names())


def _watch(schema: Any, findings: Findings, on_reply: Callable[[Findings], None]) -> None:
    @schema.hook  # type: ignore[untyped-decorator]
    def filter_case(_context: Any, case: Any) -> bool:
        meta = case.meta
        is_form = case.media_type == "multipart/form-data" and isinstance(case.body, dict)
        return meta is None or meta.generation.mode.is_positive or not is_form or not _is_sound_form(case)

    @schema.hook  # type: ignore[untyped-decorator]
    def map_case(_context: Any, case: Any) -> Any:
        meta = case.meta
        if meta is not None and meta.generation.mode.is_positive:
            _make_possible(case)
            # Otherwise Schemathesis would take whatever bytes a hook puts into a body for a mistake.
            meta.clear_dirty(ParameterLocation.BODY)
        return case

    @schema.hook  # type: ignore[untyped-decorator]
    def after_call(_context: Any, case: Any, response: Response) -> None:
        label = f"{case.method} {case.path}"
        findings.statuses[response.status_code] += 1
        findings.operations[label] += 1
        findings.accepted[label] += response.status_code == 200
        findings.slowest_s = max(findings.slowest_s, (response.elapsed, label))
        findings.over_limit += response.elapsed > LIMIT_S
        on_reply(findings)

    @schema.hook  # type: ignore[untyped-decorator]
    def after_network_error(_context: Any, case: Any, _request: Any) -> None:
        findings.statuses[0] += 1
        findings.errors.append(f"no reply to {case.as_curl_command()[:2000]}")


def _note(event: events.ScenarioFinished, findings: Findings) -> None:
    for case_id, checks in event.recorder.checks.items():
        for check in checks:
            findings.checks[check.name] += 1
            if check.status != Status.FAILURE or check.failure_info is None:
                continue
            failure, case = check.failure_info.failure, event.recorder.cases[case_id].value
            interaction = event.recorder.interactions.get(case_id)
            reply = interaction.response if interaction is not None else None
            said = f"{reply.status_code} {reply.text[:300]}" if reply is not None else "nothing"
            key = (check.name, case.operation.label, f"{failure.message} {said[:80]}")
            findings.failures.setdefault(key, f"{failure.message}\nasked: {_shown(case)}\nsaid: {said}")


def _shown(case: Any) -> str:
    return f"{case.method} {case.path} {case.query} {case.media_type} {case.body!r}"[:1500]


def _is_sound_form(case: Any) -> bool:
    """Whether a form that breaks the document is none the worse for it once it is written.

    All in a form is text, and an empty list writes nothing: 1 for a label is the label "1".
    """
    if not isinstance(case.body.get("image"), bytes | Binary):
        return False
    schema = case.operation.get_body_for_media_type(case.media_type).validation_schema
    kinds = case.operation.get_body_for_media_type(case.media_type).form_properties
    written = {name: _read_back(value, kinds.get(name, {})) for name, value in case.body.items() if value != []}
    written["image"] = "a file"
    return bool(Draft202012Validator(schema).is_valid(written))


def _read_back(value: object, schema: dict[str, Any]) -> object:
    """What a reader of the document makes of a value in a form."""
    if schema.get("type") == "array":
        return [_read_back(item, schema["items"]) for item in (value if isinstance(value, list) else [value])]
    text = f"{value}" if isinstance(value, str) else json.dumps(value)
    if schema.get("type") == "boolean" and text.lower() in _TRUTHS:
        return True
    if schema.get("type") in {"integer", "number"}:
        with suppress(ValueError):
            number = float(text)
            return int(number) if number.is_integer() else number
    return text


def _make_possible(case: Any) -> None:
    """Puts into a request that agrees with the document what else it needs to be answered.

    JSON Schema knows nothing of base64 of a picture, names of layers and classes, how many classes there are, which
    method goes with which utility, the product of three lists, or how long something takes.
    """
    files = list(sound_files().values())
    picture = files[len(repr(case.body)) % len(files)]
    text = base64.b64encode(picture).decode()
    body = case.body
    if isinstance(body, bytes | Binary):
        case.body = picture
    elif not isinstance(body, dict):
        return
    elif "instances" in body:
        instances = [_with_text(instance, text) for instance in body["instances"][:3]]
        case.body = {**body, "instances": instances}
        if isinstance(body.get("parameters"), dict):
            case.body["parameters"] = _possible(body["parameters"])
    elif "image" in body:
        image = Binary(picture) if case.media_type == "multipart/form-data" else {"b64": text}
        case.body = _possible({**body, "image": image})


def _with_text(instance: dict[str, Any], text: str) -> dict[str, Any]:
    return {"image": {"b64": text}} if "image" in instance else dict.fromkeys(instance, text)


def _possible(fields: dict[str, Any]) -> dict[str, Any]:
    fields = dict(fields)
    if "top_k" in fields:
        fields["top_k"] = min(fields["top_k"], _CLASSES)
    if isinstance(fields.get("layer"), list):
        fields["layer"] = list(islice(_LAYERS, len(fields["layer"])))
    elif isinstance(fields.get("layer"), str):
        fields["layer"] = _LAYERS[len(fields["layer"]) % len(_LAYERS)]
    if isinstance(fields.get("target"), list):
        fields["target"] = list(islice(cycle(_TARGETS), min(len(fields["target"]), 4)))
    elif "target" in fields:
        fields["target"] = _TARGETS[len(str(fields["target"])) % len(_TARGETS)]
    if "permutations" in fields:
        fields["permutations"] = min(fields["permutations"], _MOST_PERMUTATIONS)
    for name, default in (("method", "shapleycam"), ("utility", "rest")):
        if isinstance(fields.get(name), list):
            quick = [value for value in fields[name] if isinstance(value, str) and value not in _LONG | {"cam"}]
            fields[name] = quick[:3] or [default]
        elif fields.get(name) in _LONG:
            fields[name] = "gradcam"
    if fields.get("method") == "cam":
        fields["utility"], fields["layer"] = "pre-softmax", "pre_gap"
    if fields.get("reference") == "shapley-sampling":
        fields["layer"], fields["permutations"] = ["pre_gap"], _MOST_PERMUTATIONS
    return fields
