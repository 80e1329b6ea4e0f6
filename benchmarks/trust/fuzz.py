"""The service asked by Schemathesis, with all its checks, whatever the OpenAPI document allows and forbids.

`python -m benchmarks.trust.fuzz [REQUESTS] [SEED]` starts the service, prints how it fares and all that the checks
find, and ends with a row of a Markdown table. First every limit that the document states is tried, then requests are
drawn until there are enough.
"""

import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.measure import row, table
from testing.attacks.schemas import LIMIT_S, Findings, fuzz
from testing.serving import Service, serving
from testing.watching import Memory, broken_decoders, tracebacks

_KEY = "of-the-one-who-attacks-0123456789"
_SAMPLE_EVERY = 500
_EXAMPLES = 100
_TAKES_PICTURES = re.compile(r"^POST /v1/")
COLUMNS = (
    "requests", "with a picture", "minutes", "2xx", "4xx", "501 as documented", "other 5xx", "no reply",
    f"over {LIMIT_S:g} s", "slowest s", "failed checks", "service MiB: start, end, most", "MiB per 1,000",
    "decoders MiB: start, end, most",
)  # fmt: skip


class Run:
    """All that was asked so far.

    Attributes:
        statuses: how often each came.
        uploads: how many requests were to operations that take a picture.
        memory: of the service.
        failures: what checks said.
        slowest_s: the longest, and what it was.
        over_limit: how many took too long.
    """

    def __init__(self, service: Service) -> None:
        self.statuses: Counter[int] = Counter()
        self.memory = Memory()
        self.failures: dict[tuple[str, str, str], str] = {}
        self.uploads = 0
        self.slowest_s = (0.0, "")
        self.over_limit = 0
        self._service = service

    @property
    def requests(self) -> int:
        """How many there were."""
        return sum(self.statuses.values())

    def ask(self, examples: int, seed: int, *, systematic: bool) -> None:
        """Has Schemathesis ask, and adds what it finds."""
        before = self.requests

        def look(findings: Findings) -> None:
            done = before + sum(findings.statuses.values())
            if done % _SAMPLE_EVERY == 0:
                self.memory.sample(self._service, done)
                print(f"{done}: {dict(findings.statuses)}, {self.memory.service_mib[-1]:.0f} MiB", flush=True)

        headers = {"Authorization": f"Bearer {_KEY}"}
        findings = fuzz(self._service.url, examples, seed, headers=headers, systematic=systematic, on_reply=look)
        self.statuses += findings.statuses
        self.uploads += sum(number for name, number in findings.operations.items() if _TAKES_PICTURES.search(name))
        self.over_limit += findings.over_limit
        self.slowest_s = max(self.slowest_s, findings.slowest_s)
        for error in findings.errors:
            findings.failures[error, "", ""] = error
        for key, text in findings.failures.items():
            if key not in self.failures:
                self.failures[key] = text
                print(f"seed {seed}: {key[0]} of {key[1]}: {text}", flush=True)


def main(count: int = 20_000, seed: int = 1) -> None:
    """Starts the service, asks and prints."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder, "keys")
        keys.write_text(f"fuzz: {_KEY}\n")
        keys.chmod(0o600)
        with serving(Path(folder), timeout_s=60, api_keys_file=keys) as service:
            run, started = Run(service), time.monotonic()
            run.ask(1, seed, systematic=True)
            while run.requests < count:
                seed += 1
                run.ask(_EXAMPLES, seed, systematic=False)
            minutes = (time.monotonic() - started) / 60
            run.memory.sample(service, run.requests)
            print(*_report(run, service, minutes), sep="\n")


def _report(run: Run, service: Service, minutes: float) -> list[str]:
    memory, statuses = run.memory, dict(run.statuses)

    def of(hundred: int) -> int:
        return sum(number for status, number in run.statuses.items() if status // 100 == hundred)

    return [
        f"{statuses}; {broken_decoders(service)} decoders broken; {tracebacks(service)} tracebacks in the log",
        f"MiB of the service: {', '.join(f'{mib:.0f}' for mib in memory.service_mib)}",
        "",
        *table(*COLUMNS),
        row(
            run.requests,
            run.uploads,
            f"{minutes:.1f}",
            of(2),
            of(4),
            run.statuses[501],
            of(5) - run.statuses[501],
            run.statuses[0],
            run.over_limit,
            f"{run.slowest_s[0]:.1f} ({run.slowest_s[1]})",
            len(run.failures),
            spread(memory.service_mib),
            f"{memory.slope_mib():+.2f}",
            spread(memory.children_mib),
        ),
    ]


def spread(mib: list[float]) -> str:
    """First, last and largest."""
    return f"{mib[0]:.0f}, {mib[-1]:.0f}, {max(mib):.0f}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
