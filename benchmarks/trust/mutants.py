"""Mutated pictures of every format posted to the running service by several callers at once.

`python -m benchmarks.trust.mutants [PICTURES] [SEED]` starts the service, prints how it fares, and ends with a row of a
Markdown table. Meanwhile a good request is asked again and again: its answer must stay what it was.
"""

import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings

from benchmarks.measure import row, table
from benchmarks.trust.fuzz import spread
from testing.attacks.images import GoodRequest, Mutant, Tally, mutants, post
from testing.serving import Service, serving
from testing.watching import Memory, broken_decoders, tracebacks

CALLERS = 2
_SAMPLE_EVERY = 500
_PAUSE_S = 0.5
COLUMNS = (
    "pictures", "minutes", "200", "413", "415", "422", "other", "over 25 s", "slowest s", "decoders broken",
    "good replies that differ", "service MiB: start, end, most", "MiB per 1,000", "decoders MiB: start, end, most",
)  # fmt: skip


class Siege:
    """An attack on a running service, and those who are bystanders.

    Attributes:
        tally: what came back.
        memory: of the service.
        different: how the answers to the good request differed from the first.
        good: how often it was asked.
    """

    def __init__(self, service: Service) -> None:
        self.tally = Tally()
        self.memory = Memory()
        self.different: list[str] = []
        self.good = 0
        self._service = service
        self._lock = threading.Lock()

    def attack(self, count: int, number: int) -> None:
        """One caller, who posts `count` pictures; callers of other numbers post others."""
        with httpx.Client(base_url=self._service.url, timeout=120) as client:

            @seed(number)
            @given(mutants())
            @settings(
                max_examples=count,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def one(mutant: Mutant) -> None:
                tally = Tally()
                post(client, mutant, tally)
                self._add(tally)

            one()

    def stand_by(self, is_over: threading.Event) -> None:
        """A bystander, who asks the same all the time."""
        with httpx.Client(base_url=self._service.url, timeout=120) as client:
            request = GoodRequest(client)
            while not is_over.wait(_PAUSE_S):
                difference = request.check()
                self.good += 1
                if difference:
                    self.different.append(difference)

    def _add(self, tally: Tally) -> None:
        with self._lock:
            mine = self.tally
            mine.statuses += tally.statuses
            mine.codes += tally.codes
            mine.faults += tally.faults
            mine.broke += tally.broke
            mine.over_limit += tally.over_limit
            mine.slowest_s = max(mine.slowest_s, tally.slowest_s)
            done = sum(mine.statuses.values())
            if done % _SAMPLE_EVERY == 0:
                self.memory.sample(self._service, done)
                print(f"{done}: {dict(mine.statuses)}, {self.memory.service_mib[-1]:.0f} MiB", flush=True)
            for what in (*tally.faults, *tally.broke):
                print(what, flush=True)


def main(count: int = 20_000, number: int = 1) -> None:
    """Starts the service, attacks it and prints."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as service:
        siege, is_over = Siege(service), threading.Event()
        bystander = threading.Thread(target=siege.stand_by, args=(is_over,))
        callers = [
            threading.Thread(target=siege.attack, args=(count // CALLERS, CALLERS * number + caller))
            for caller in range(CALLERS)
        ]
        started = time.monotonic()
        for thread in (bystander, *callers):
            thread.start()
        for thread in callers:
            thread.join()
        is_over.set()
        bystander.join()
        minutes = (time.monotonic() - started) / 60
        siege.memory.sample(service, sum(siege.tally.statuses.values()))
        print(*_report(siege, service, minutes), sep="\n")


def _report(siege: Siege, service: Service, minutes: float) -> list[str]:
    tally, memory = siege.tally, siege.memory
    known = (200, 413, 415, 422)
    others = {status: number for status, number in tally.statuses.items() if status not in known}
    return [
        f"codes: {dict(tally.codes)}; {len(tally.faults)} faults; {tracebacks(service)} tracebacks in the log",
        f"good request: asked {siege.good} times, {len(siege.different)} different {siege.different[:3]}",
        f"MiB of the service: {', '.join(f'{mib:.0f}' for mib in memory.service_mib)}",
        "",
        *table(*COLUMNS),
        row(
            sum(tally.statuses.values()),
            f"{minutes:.1f}",
            *(tally.statuses[status] for status in known),
            others or 0,
            tally.over_limit,
            f"{tally.slowest_s[0]:.1f} ({tally.slowest_s[1]})",
            broken_decoders(service),
            f"{len(siege.different)} of {siege.good}",
            spread(memory.service_mib),
            f"{memory.slope_mib():+.2f}",
            spread(memory.children_mib),
        ),
    ]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
