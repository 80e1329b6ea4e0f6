"""Asks the service with kserve's own client, and prints what that made of the answers as JSON.

Run by the interpreter of `.venv-clients`: python kserve_client.py <url> <network> <picture>
"""

import asyncio
import base64
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import httpx
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def refusal(call: Awaitable[Any]) -> str:
    """What the client raises."""
    try:
        await call
    except httpx.HTTPStatusError as error:
        return f"{error.response.status_code} {error}"
    return "nothing"


async def first_version(url: str, network: str, image: str) -> dict[str, Any]:
    instances = {"instances": [{"image": {"b64": image}}, {"b64": image}]}
    fields = {"parameters": {"top_k": 3, "include": ["heatmap", "attribution"]}}
    broken = {"instances": [*instances["instances"], {"data": "bm8gcGljdHVyZQ=="}]}
    async with InferenceRESTClient(RESTConfig(protocol="v1", timeout=120)) as client:
        return {
            "live": await client.is_server_live(url),
            "model_ready": await client.is_model_ready(url, network),
            "unknown_model": await refusal(client.is_model_ready(url, "vgg99")),
            "predict": await client.infer(url, instances | {"parameters": {"top_k": 3}}, model_name=network),
            "explain": await client.explain(url, network, instances | fields),
            "no_picture": await refusal(client.explain(url, network, broken)),
        }


async def second_version(url: str, network: str, image: str) -> dict[str, Any]:
    tensor = InferInput("image", [1], "BYTES", data=[image])
    async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=120)) as client:
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, network),
            "unknown_model_ready": await client.is_model_ready(url, "vgg99"),
            "infer": await refusal(client.infer(url, InferRequest(network, [tensor]), model_name=network)),
        }


async def main(url: str, network: str, picture: str) -> None:
    image = base64.b64encode(Path(picture).read_bytes()).decode()  # noqa: ASYNC240 - nothing else runs
    json.dump({ask.__name__: await ask(url, network, image) for ask in (first_version, second_version)}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
