"""A minute of mixed requests at a steady pace: every reply is right, and the service is afterwards as it was before."""

import asyncio
import time
from pathlib import Path

from testing.footprint import footprint
from testing.serving import serving
from testing.soak import soak

GROWTH_MIB = 250
PATIENCE_S = 30


def test_mixed_requests_are_answered_rightly_and_leave_nothing_behind(tmp_path: Path) -> None:
    # Where the machine has other work than this, requests wait: none may be refused for that.
    with serving(tmp_path, queue_size=10_000, timeout_s=600) as service:
        report = asyncio.run(soak(service, 3, 0.5, interval_s=15, capacity_s=12))
        deadline, now = time.monotonic() + PATIENCE_S, report.after
        while now.descriptors > report.before.descriptors and time.monotonic() < deadline:
            time.sleep(0.2)
            now = footprint(service.process.pid)
        log = service.log.read_text()
    print(report.summary(0.5))
    assert report.faults == []
    assert report.statuses["200"] > 100
    # A machine that is busy does not come to all kinds of mistakes in this time.
    assert {"200", "422"} <= set(report.statuses) <= {"200", "404", "415", "422"}
    assert now.descriptors <= report.before.descriptors
    assert now.threads <= report.before.threads
    assert now.children == report.before.children
    assert now.resident_mib < report.before.resident_mib + GROWTH_MIB
    assert now.children_mib < report.before.children_mib + GROWTH_MIB
    assert "Traceback" not in log
