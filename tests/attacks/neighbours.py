"""What other callers see of a service while somebody attacks it."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testing.footprint import children_of, resident_mib
from testing.pictures import encoded, photograph
from testing.serving import Service

_ASKING = Path(__file__).with_name("asking.py")
_START_S = 30.0


@dataclass(slots=True)
class Neighbours:
    """What the others were answered.

    Attributes:
        livez_s: seconds of each call of `/livez`.
        predict_s: seconds of each small prediction.
        statuses: how often each status came, 0 for a call without an answer.
    """

    livez_s: list[float] = field(default_factory=list)
    predict_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def assert_unhurt(self, calm: "Neighbours") -> None:
        """Nobody was refused, and nobody waited longer than a busy machine explains.

        On two quiet cores `/livez` answers within 1 s and a small prediction within 5 s; on a machine that is busy the
        same calls without the attack take longer too.
        """
        print(f"calm: {calm}\nattacked: {self}")
        assert set(self.statuses) == {200}, self.statuses
        assert max(self.livez_s) < max(1.0, 20 * max(calm.livez_s)), self
        assert max(self.predict_s) < max(5.0, 40 * max(calm.predict_s)), self

    def __str__(self) -> str:
        livez, predict = sorted(self.livez_s), sorted(self.predict_s)
        return (
            f"/livez worst {livez[-1]:.2f} s of {len(livez)}; predict median {predict[len(predict) // 2]:.2f} s, "
            f"worst {predict[-1]:.2f} s of {len(predict)}; {dict(self.statuses)}"
        )


@contextmanager
def neighbours(service: Service) -> Iterator[Neighbours]:
    """Has others ask a service for as long as the context lasts; their answers are there when it ends."""
    seen = Neighbours()
    picture = encoded(photograph("coffee").resize((300, 200)), "JPEG", quality=90)
    command = [sys.executable, _ASKING, service.url]
    begun = threading.Event()

    def read(lines: Iterator[bytes]) -> None:
        for kind, status, seconds in map(json.loads, lines):
            seen.statuses[status] += 1
            (seen.livez_s if kind == "livez" else seen.predict_s).append(seconds)
            if seen.livez_s and seen.predict_s:
                begun.set()

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        reader = threading.Thread(target=read, args=(iter(process.stdout),))
        reader.start()
        process.stdin.write(len(picture).to_bytes(4, "big") + picture)
        process.stdin.flush()
        begun.wait(_START_S)
        try:
            yield seen
        finally:
            process.stdin.close()
            reader.join()


def calm(service: Service, seconds: float = 3.0) -> Neighbours:
    """What others see while nobody attacks."""
    with neighbours(service) as seen:
        time.sleep(seconds)
    return seen


def resident_after(service: Service, wanted_mib: float, limit_s: float = 60.0) -> float:
    """Memory of the service and its children in MiB, once it is no more than wanted, or after the limit."""
    deadline = time.monotonic() + limit_s
    while True:
        pid = service.process.pid
        mib = resident_mib(pid) + sum(map(resident_mib, children_of(pid)))
        if mib <= wanted_mib or time.monotonic() > deadline:
            return mib
        time.sleep(0.5)
