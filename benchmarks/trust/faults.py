"""Faults, each in a service of its own under light steady load: what callers saw, and how soon all was as before.

`python -m benchmarks.trust.faults` runs all of them, `... WORD ...` those whose names hold one of the words.
"""

import asyncio
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.trust.faults_of_disks import full_disk
from testing.faults import callers, machines
from testing.faults.preload import COMPILER, SCARCE_MEMORY, WALL_CLOCK
from testing.faults.scene import Fault

_TIMEOUT_S = 8
# Most systems start a process with this many.
_DESCRIPTORS = 1024

FAULTS = (
    Fault("worker death", machines.worker_death),
    Fault("no more than 4 MiB at once for 5 s", machines.short_of_memory, preload=SCARCE_MEMORY),
    Fault("clock jumps", machines.clock_jump, preload=WALL_CLOCK),
    Fault("slow and half uploads of 50 callers", callers.slow_uploads, {"timeout_s": _TIMEOUT_S}),
    Fault("1,200 connections that never ask", callers.idle_connections, descriptors=_DESCRIPTORS),
    Fault("40 callers who never read", callers.who_never_read),
    Fault("a decoder stands still for 5 s", machines.stopped_child),
    Fault("decoders killed for 3 s", machines.killed_children),
    Fault("SIGTERM under load", machines.sigterm, is_last=True),
)
_DISK = "full disk"
_SHOWN = 80


def main(*words: str) -> None:
    """Runs the faults and prints a table."""
    print(
        "| fault | its own callers | the steady load | worst, ms | normal after, s | log |\n|---|---|---|---|---|---|"
    )
    for fault in FAULTS:
        if not words or any(word in fault.name for word in words):
            with tempfile.TemporaryDirectory() as folder:
                print(_line(fault, Path(folder)), flush=True)
    if not words or any(word in _DISK for word in words):
        try:
            for name, told in full_disk():
                print(f"| {name} | {told} | | | | |", flush=True)
        except PermissionError as error:
            print(f"| {_DISK} | not done: {error} | | | | |")


def _line(fault: Fault, folder: Path) -> str:
    if fault.preload is not None and COMPILER is None:
        return f"| {fault.name} | not done: there is no C compiler here | | | | |"
    scene, told = asyncio.run(fault.run(folder))
    normal = "-" if fault.is_last else f"{scene.normal_after_s():.1f}"
    errors = _errors(scene.service.log.read_text())
    return f"| {fault.name} | {told} | {scene.seen()} | {scene.worst_ms():.0f} | {normal} | {errors} |"


def _errors(log: str) -> str:
    """The last lines of all tracebacks in the log, counted."""
    said = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    ends = Counter(line["exc_info"].strip().splitlines()[-1][:_SHOWN] for line in said if line.get("exc_info"))
    return ", ".join(f"{count} x `{end}`" for end, count in ends.most_common()) or "clean"


if __name__ == "__main__":
    main(*sys.argv[1:])
