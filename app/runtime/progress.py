"""How far a request in flight is."""

import time
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Progress:
    """One request's; its times are on the clock of `time.perf_counter`.

    Attributes:
        request_id: the caller's, or a new one.
        accepted: when it was let in.
        begun: when the device began with it; None while it waits.
        estimate_s: how long the device is estimated to need for it; None where that is not known.
    """

    request_id: str
    accepted: float = field(default_factory=time.perf_counter)
    begun: float | None = None
    estimate_s: float | None = None

    def begin(self, estimate_s: float | None) -> None:
        """Notes, on any thread, that the device has begun; a batch that is halved begins anew and has begun before."""
        self.estimate_s = estimate_s
        self.begun = self.begun or time.perf_counter()
