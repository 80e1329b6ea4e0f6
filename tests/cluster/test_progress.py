"""How far a request is that a replica answers."""

from concurrent.futures import ThreadPoolExecutor

import httpx


def test_a_request_runs_from_when_a_replica_is_asked_without_an_estimate(client: httpx.Client, chelsea: bytes) -> None:
    def explain() -> httpx.Response:
        headers = {"X-Request-ID": "order-66", "Content-Type": "image/png"}
        # Seconds of work.
        return client.post("/v1/explain?model=vit&method=scorecam&smooth=flip-scale", content=chelsea, headers=headers)

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(explain)
        states = []
        while not call.done():  # it ends by itself, after CAM_TIMEOUT_S at the latest
            answer = client.get("/v1/requests/order-66")
            if answer.status_code == 200:
                states.append(answer.json())
        assert call.result().status_code == 200
    running = [state for state in states if state["state"] == "running"]
    assert len(running) > 1
    assert running[-1]["running_s"] > running[0]["running_s"]
    assert {state["estimate_s"] for state in states} == {None}
    assert client.get("/v1/requests/order-66").json()["state"] == "unknown"
