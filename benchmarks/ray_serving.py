"""`python -m benchmarks.ray_serving`: what Ray Serve adds to a request, both services asked in turn on one machine."""

import statistics
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.measure import shown
from testing.pictures import encoded, photograph
from testing.serving import Service, free_port, serving

ROUNDS = 100
CALLS = ("/v1/predict", "/v1/explain")


def main() -> None:
    """Measures and prints."""
    picture = encoded(photograph("chelsea"), "JPEG")
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as other,
        serving(Path(one), ready=False) as plain,
        serving(Path(other), "--engine", "ray", ready=False, port=free_port()) as on_ray,
    ):
        for service in (plain, on_ray):
            service.wait_until_ready()
        for path in CALLS:
            times = [[_ask_ms(service, path, picture) for service in (plain, on_ray)] for _ in range(ROUNDS)]
            alone, through_ray = (statistics.median(column) for column in zip(*times[10:], strict=True))
            added = [ray - plain for plain, ray in times[10:]]
            print(f"{path}: {alone:.1f} ms, on Ray {through_ray:.1f} ms; added, ms: {shown(added)}")


def _ask_ms(service: Service, path: str, picture: bytes) -> float:
    started = time.perf_counter()
    with httpx.Client(base_url=service.url, timeout=60) as client:
        client.post(path, content=picture, headers={"Content-Type": "image/jpeg"}).raise_for_status()
    return 1e3 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
