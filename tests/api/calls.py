"""Calls of the KServe V1 protocol."""

import base64
from typing import Any

import httpx

NETWORK = "tf_efficientnet_lite0"


def b64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def instance(file: bytes) -> dict[str, Any]:
    """An instance in the first of its three shapes."""
    return {"image": {"b64": b64(file)}}


def post(
    client: httpx.Client, verb: str, instances: list[Any], network: str = NETWORK, **parameters: Any
) -> httpx.Response:
    body = {"instances": instances, "parameters": parameters}
    return client.post(f"/v1/models/{network}:{verb}", json=body)


def call(
    client: httpx.Client, verb: str, instances: list[Any], network: str = NETWORK, **parameters: Any
) -> list[dict[str, Any]]:
    """What a call is answered: a list with one key around it."""
    response = post(client, verb, instances, network, **parameters)
    assert response.status_code == 200, response.text[:2000]
    ((key, replies),) = response.json().items()
    assert key == {"predict": "predictions", "explain": "explanations"}[verb]
    assert len(replies) == len(instances)
    assert isinstance(replies, list)
    return replies
