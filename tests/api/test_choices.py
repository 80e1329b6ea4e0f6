"""What a caller can choose from, and the probes."""

import httpx

from app.cam.methods import METHODS
from app.cam.utilities import UTILITIES
from testing.serving import LABELS

PARAMETERS = {
    "randomcam": ["seed"],
    "shapley-sampling": ["permutations", "tolerance", "seed"],
    "aumann-shapley": ["nodes"],
}

ALIASES = {"pre-softmax": ["logit"], "post-softmax": ["probability"], "log-softmax": ["log-probability"]}


def test_models_are_listed_with_the_default_first(client: httpx.Client) -> None:
    assert client.get("/v1/models").json() == {"models": ["tf_efficientnet_lite0", "small", "vit"]}


def test_a_model_is_described(client: httpx.Client) -> None:
    assert client.get("/v1/models/tf_efficientnet_lite0").json() == {
        "name": "tf_efficientnet_lite0",
        "ready": True,
        "layers": {"pre_gap": "bn2", "last_conv": "conv_head"},
        "input_size": [224, 224],
        "channels": 3,
        "scores": "softmax",
        "classes": 1000,
        "weights": "embedded",
        "device": "cpu",
    }
    small = client.get("/v1/models/small").json()
    assert (small["weights"], small["classes"]) == ("random", len(LABELS))


def test_labels_are_listed_in_order(client: httpx.Client) -> None:
    labels = client.get("/v1/models/tf_efficientnet_lite0/labels").json()["labels"]
    assert len(labels) == 1000
    assert (labels[0], labels[281]) == ("tench", "tabby")
    assert client.get("/v1/models/small/labels").json() == {"labels": LABELS}


def test_methods_say_what_they_are_and_what_they_take(client: httpx.Client) -> None:
    methods = client.get("/v1/methods").json()["methods"]
    assert [method["name"] for method in methods] == list(METHODS)
    assert methods[0]["name"] == "shapleycam"
    assert PARAMETERS.keys() <= METHODS.keys()
    for method in methods:
        assert list(method) == ["name", "description", "source", "parameters"]
        assert method["description"]
        assert method["source"]
        assert method["parameters"] == PARAMETERS.get(method["name"], [])


def test_utilities_say_what_they_are(client: httpx.Client) -> None:
    utilities = client.get("/v1/utilities").json()["utilities"]
    assert [utility["name"] for utility in utilities] == list(UTILITIES)
    assert utilities[0]["name"] == "rest"
    for utility in utilities:
        assert list(utility) == ["name", "description", "source", "parameters", "aliases"]
        assert utility["description"]
        assert utility["aliases"] == ALIASES.get(utility["name"], [])
        assert utility["parameters"] == []


def test_the_probes_answer(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
