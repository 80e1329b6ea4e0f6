"""The forward pass that a user would write, in a process of its own, where nothing is set that helps or hinders it.

`python -m benchmarks.bare NETWORK BATCH` runs it once for each line on its standard input, and prints the seconds.
"""

import os
import subprocess
import sys
from types import TracebackType

# What an expert would set, for whom the second column of ratios is.
_TUNED = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}


def user_environment() -> dict[str, str]:
    """This process's environment as it was before it was prepared."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MALLOC_"))}


def prepared_environment() -> dict[str, str]:
    """What has a process begin as `app.process` prepares it."""
    return user_environment() | _TUNED | {"OMP_WAIT_POLICY": "PASSIVE"}


class BareForward:
    """A process that runs a network's bare forward pass when it is asked to."""

    def __init__(self, name: str, batch: int, *, tuned: bool = False) -> None:
        environment = user_environment() | (_TUNED if tuned else {})
        command = [sys.executable, "-m", "benchmarks.bare", name, str(batch)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> "BareForward":
        for _ in range(2):
            self.seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def seconds(self) -> float:
        """Wall-clock time of one pass."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def main(name: str, batch: int) -> None:
    """Runs and prints."""
    from benchmarks.measure import bare_forward, benchmark_images, benchmark_network, seconds

    forward = bare_forward(benchmark_network(name).model, benchmark_images(batch))
    for _line in sys.stdin:
        print(seconds(forward), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
