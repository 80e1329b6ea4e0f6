"""An image process is small and leaves with its parent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "matplotlib", "timm", "service_models", "asyncio")

PARENT = """
import asyncio, os
from app.runtime.image_processes import ImageProcesses
async def main():
    images = ImageProcesses(2, 1_000_000)
    await images.pool.start()
    print(*images.pool.pids, flush=True)
    {end}
asyncio.run(main())
"""


def test_the_child_imports_nothing_heavy() -> None:
    code = "import sys, json, app.imaging.child; print(json.dumps(list(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True)
    assert not set(HEAVY) & set(json.loads(shown.stdout))


def runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("end", ["os._exit(1)", "await asyncio.sleep(60)"])
def test_children_end_with_their_parent_even_when_it_is_killed(end: str) -> None:
    command = [sys.executable, "-c", PARENT.format(end=end)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        if "sleep" in end:
            for pid in pids:
                os.kill(pid, signal.SIGINT)
                assert runs(pid)
            parent.kill()
    deadline = time.monotonic() + 30
    while any(map(runs, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
