"""Labels that cost far more to look at than to send."""

import json

import httpx
import pytest

from testing.pictures import encoded, photograph
from testing.serving import Service
from tests.attacks.sending import assert_nobody_is_hurt

# Its JSON, 3 bytes of UTF-8 a letter, fits into the 4 MiB of this service.
LETTERS = 10**6
PICTURE = encoded(photograph("chelsea").resize((64, 48)), "JPEG")
FORM = {"files": {"image": ("a.jpg", PICTURE)}}


def as_json(label: str) -> dict[str, object]:
    body = json.dumps({"image": {"b64": ""}, "target": label}, ensure_ascii=False).encode()
    return {"content": body, "headers": {"Content-Type": "application/json"}}


def as_form(label: str) -> dict[str, object]:
    return FORM | {"data": {"target": label}}


@pytest.mark.parametrize("post", [as_json, as_form])
@pytest.mark.parametrize("letter", ["ß", "İ", "ŉ", "ﬃ", "ΐ", "A"])
def test_a_label_of_megabytes_is_refused_by_its_length(
    attacked: Service, attacker: httpx.Client, letter: str, post: object
) -> None:
    assert callable(post)

    def attack() -> None:
        answer = attacker.post("/v1/explain", **post(letter * LETTERS))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
        assert answer.elapsed.total_seconds() < 5
        assert len(answer.content) < 10_000

    assert_nobody_is_hurt(attacked, attack)


def test_sixteen_labels_that_are_as_long_as_they_may_be(attacked: Service, attacker: httpx.Client) -> None:
    # Anagrams of labels pass all quick comparisons.
    labels = attacker.get("/v1/models/tf_efficientnet_lite0/labels").json()["labels"]
    anagrams = ["".join(sorted(label)) for label in sorted(labels, key=len)[-16:]]

    def attack() -> None:
        for _ in range(20):
            answer = attacker.post("/v1/explain", **FORM, data={"target": anagrams})
            assert (answer.status_code, answer.json()["detail"]["field"]) == (422, "target")

    assert_nobody_is_hurt(attacked, attack)
