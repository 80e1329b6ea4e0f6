"""What every reply tells browsers, whatever went wrong; and where no reply sends anybody."""

import asyncio
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from app.main import create_app
from app.settings import Settings
from testing.serving import Service
from tests.attacks.sending import exchange

TRUSTS_NOTHING = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


class Broken:
    """Middleware that fails before anything else is asked."""

    def __init__(self, app: ASGIApp) -> None:
        pass

    async def __call__(self, *_: object) -> None:
        raise ZeroDivisionError


async def fail() -> None:
    raise ZeroDivisionError


def in_a_route(app: FastAPI) -> None:
    app.add_api_route("/fails", fail)


def in_middleware(app: FastAPI) -> None:
    app.user_middleware.append(app.user_middleware[0].__class__(Broken))


def outside_of_all(app: FastAPI) -> None:
    app.add_middleware(Broken)


def ask(app: FastAPI, path: str) -> httpx.Response:
    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(path)

    return asyncio.run(get())


@pytest.mark.parametrize("breaks", [in_a_route, in_middleware, outside_of_all])
def test_a_500_of_any_layer_tells_browsers_to_trust_nothing(breaks: Callable[[FastAPI], None]) -> None:
    app = create_app(Settings())
    breaks(app)
    answer = ask(app, "/fails")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers.items() >= TRUSTS_NOTHING.items()
    if breaks is not outside_of_all:
        assert answer.headers["x-request-id"]


def test_refusals_of_all_kinds_tell_browsers_to_trust_nothing(attacker: httpx.Client) -> None:
    large = {"content": bytes(5 * 2**20), "headers": {"Content-Type": "image/jpeg"}}
    answers = [
        attacker.get("/nowhere"),
        attacker.post("/livez"),
        attacker.get("/v1/methods?" + "a&" * 300),
        attacker.get("/", headers={"Accept": "a," * 3000}),
        attacker.post("/v1/predict", **large),
        attacker.post("/v1/predict", content=b"{", headers={"Content-Type": "application/json"}),
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 422, 406, 413, 400]
    for answer in answers:
        assert answer.headers.items() >= TRUSTS_NOTHING.items()
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/",
        "/v1/methods/",
        "/livez/",
        "/v1/models/x/",
        "/docs/",
        "/static-offline-docs",
        "/page",
        "//v1/models/",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nobody_is_sent_to_the_host_that_he_names(attacked: Service, method: str, path: str) -> None:
    request = f"{method} {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    answer = exchange(attacked, request.encode())
    assert answer.status == 404
    assert "location:" not in answer.head
    assert "evil.example" not in answer.head
    assert b"evil.example" not in answer.body
