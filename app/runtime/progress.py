"""How far a request in flight is."""

import time
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class RequestProgress:
    """How far one request is; its times are on the clock of `time.perf_counter`.

    Attributes:
        request_id: the caller's, or a new one.
        accepted: when it was let in.
        started: when the device started with it; None while it waits.
        estimate_s: how long the device is estimated to need for it; None where that is not known.
    """

    request_id: str
    accepted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    estimate_s: float | None = None

    def start(self, estimate_s: float | None) -> None:
        """Notes, on any thread, that the device has started; a later call (of a halved batch) changes the estimate."""
        self.estimate_s = estimate_s
        self.started = self.started or time.perf_counter()
