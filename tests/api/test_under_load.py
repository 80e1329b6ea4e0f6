"""Requests of every kind at once: none fails, none is lost, and each is answered as it is alone."""

import asyncio
from pathlib import Path

from testing.load import call_all
from testing.serving import serving

COUNT, LONG = 400, 2


def test_mixed_requests_are_answered_as_each_is_alone(tmp_path: Path) -> None:
    with serving(tmp_path, timeout_s=600) as service:
        report = asyncio.run(call_all(service, COUNT, LONG))
        log = service.log.read_text()
    assert report.faults == []
    assert sum(report.statuses.values()) == COUNT
    assert set(report.statuses) == {200, 404, 415, 422}
    assert "Traceback" not in log
