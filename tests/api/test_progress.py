"""GET /v1/requests/{request_id}: how far a request in flight is, and nothing about any other."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from testing.pictures import encoded, photograph
from testing.serving import Service, log_line, serving
from tests.api.asking import JPEG

IMAGE = encoded(photograph("rocket"), "JPEG")
# A minute of work for two processors; the second at a layer that nobody has used before.
LONG = {
    "/v1/explain": {
        "method": "shapley-sampling",
        "layer": "last_conv",
        "permutations": "65536",
        "smooth": "flip-scale",
    },
    "/v1/compare": {"method": "scorecam", "layer": "blocks.6", "target": "1"},
}
_WAIT_S = 120

Call = asyncio.Task[httpx.Response]


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that takes requests for an hour."""
    with serving(tmp_path_factory.mktemp("patient"), timeout_s=3600) as running:
        yield running


class Asker:
    """Posts requests, and asks how far they are."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._calls: list[Call] = []

    async def post(self, request_id: str, path: str = "/v1/explain") -> Call:
        """Begins a long request."""
        headers = {**JPEG, "X-Request-ID": request_id}
        call = asyncio.create_task(self._client.post(path, content=IMAGE, params=LONG[path], headers=headers))
        self._calls.append(call)
        await self.until(request_id, lambda reply: reply["state"] != "unknown")
        return call

    async def hang_up(self, *calls: Call) -> None:
        for call in calls or self._calls:
            assert not call.done() or call.cancelled(), call.result().text[:500]
            call.cancel()
            await asyncio.wait([call])

    async def get(self, request_id: str) -> dict[str, Any]:
        response = await self._client.get(f"/v1/requests/{request_id}")
        assert response.status_code == 200, response.text
        return response.json()

    async def until(self, request_id: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Asks until an answer is so."""
        async with asyncio.timeout(_WAIT_S):
            while True:
                reply = await self.get(request_id)
                if is_so(reply):
                    return reply
                await asyncio.sleep(0.05)

    async def until_it_is(self, state: str, request_id: str) -> dict[str, Any]:
        return await self.until(request_id, lambda reply: reply["state"] == state)

    async def until_gone(self, request_id: str) -> None:
        assert await self.until_it_is("unknown", request_id) == unknown(request_id)


def ask(service: Service, test: Callable[[Asker], Awaitable[None]]) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(base_url=service.url, timeout=_WAIT_S) as client:
            asker = Asker(client)
            try:
                await test(asker)
            finally:
                await asker.hang_up()

    asyncio.run(run())


@pytest.mark.parametrize("path", LONG)
def test_a_running_request_has_an_estimate_and_gets_on_until_it_ends(patient: Service, path: str) -> None:
    async def test(asker: Asker) -> None:
        call = await asker.post("order-66/a", path)
        first = await asker.until_it_is("running", "order-66/a")
        assert list(first) == ["request_id", "state", "waited_s", "running_s", "estimate_s"]
        assert first["request_id"] == "order-66/a"
        assert 0 < first["estimate_s"] < 3600
        await asyncio.sleep(0.5)
        later = await asker.get("order-66/a")
        assert later["running_s"] - first["running_s"] == pytest.approx(0.5, abs=0.4)
        # A network that turns out to be faster than was thought is timed again meanwhile, and the estimate with it.
        assert later["estimate_s"] > 0
        moving = {"running_s": 0, "estimate_s": 0}
        assert later | moving == first | moving
        await asker.hang_up(call)
        await asker.until_gone("order-66/a")

    ask(patient, test)


def test_one_behind_another_waits_until_its_turn(patient: Service) -> None:
    async def test(asker: Asker) -> None:
        ahead = await asker.post("ahead")
        await asker.until_it_is("running", "ahead")
        await asker.post("behind")
        first = await asker.get("behind")
        await asyncio.sleep(0.5)
        later = await asker.get("behind")
        for reply in (first, later):
            assert (reply["state"], reply["running_s"], reply["estimate_s"]) == ("waiting", None, None)
        assert later["waited_s"] - first["waited_s"] == pytest.approx(0.5, abs=0.4)
        await asker.hang_up(ahead)
        begun = await asker.until_it_is("running", "behind")
        assert begun["waited_s"] >= later["waited_s"]
        assert begun["estimate_s"] > 0
        await asker.until_gone("ahead")

    ask(patient, test)


def test_of_two_with_one_id_the_later_is_shown_and_neither_takes_the_other_along(patient: Service) -> None:
    async def test(asker: Asker) -> None:
        first = await asker.post("twice")
        alone = await asker.until_it_is("running", "twice")
        second = await asker.post("twice")
        await asker.until_it_is("waiting", "twice")
        await asker.hang_up(second)
        left = await asker.until_it_is("running", "twice")
        assert left["waited_s"] == alone["waited_s"]
        assert left["running_s"] > alone["running_s"]
        third = await asker.post("twice")
        await asker.until_it_is("waiting", "twice")
        await asker.hang_up(first)
        assert (await asker.until_it_is("running", "twice"))["waited_s"] != alone["waited_s"]
        await asker.hang_up(third)
        await asker.until_gone("twice")

    ask(patient, test)


def test_a_request_that_was_answered_is_gone_at_once(client: httpx.Client, chelsea: bytes) -> None:
    for path in ("/v1/explain", "/v1/compare"):
        answer = client.post(path, files={"image": chelsea}, headers={"X-Request-ID": "done"})
        assert answer.status_code == 200
        assert client.get("/v1/requests/done").json() == unknown("done")
    refused = client.post("/v1/explain", content=b"no picture", headers={**JPEG, "X-Request-ID": "refused"})
    assert refused.status_code == 415
    assert client.get("/v1/requests/refused").json() == unknown("refused")


def unknown(request_id: str) -> dict[str, Any]:
    return {"request_id": request_id, "state": "unknown", "waited_s": None, "running_s": None, "estimate_s": None}


@pytest.mark.parametrize("request_id", ["unknown", "a/b/c", "x" * 128])
def test_nothing_is_known_of_what_is_not_in_flight(client: httpx.Client, request_id: str) -> None:
    answer = client.get(f"/v1/requests/{request_id}")
    assert (answer.status_code, answer.json()) == (200, unknown(request_id))


@pytest.mark.parametrize("request_id", ["%20", "%00", "x" * 129, "%F0%9F%98%80", "null,null", ""])
def test_what_can_be_no_id_is_not_found(client: httpx.Client, request_id: str) -> None:
    answer = client.get(f"/v1/requests/{request_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["detail"]["field"] == "request_id"


def test_questions_are_counted_by_route_and_stand_in_no_log(service: Service, client: httpx.Client) -> None:
    def counts() -> dict[tuple[str, ...], float]:
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
            if sample.name in ("cam_requests_total", "cam_rejected_total")
        }

    asked = ("cam_requests_total", "GET", "/v1/requests/{request_id:path}", "200")
    before = counts()
    for _ in range(3):
        assert client.get("/v1/requests/b5c1e0").status_code == 200
    after = counts()
    assert after.pop(asked) - before.pop(asked, 0) == 3
    assert {key: value for key, value in after.items() if key[0] == "cam_rejected_total"}.items() <= before.items()
    client.get("/v1/models", headers={"X-Request-ID": "after-questions"})
    log_line(service.log, request_id="after-questions")
    assert "b5c1e0" not in service.log.read_text()
