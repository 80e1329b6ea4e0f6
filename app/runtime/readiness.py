"""Whether a device works now, and not only at start-up."""

import asyncio
import time
from collections.abc import Callable

from app.runtime.worker import DeviceWorker

# An idle device whose last success is so long ago is tested.
_FRESH_S = 20.0
_PROBE_S = 3.0


async def why_not_ready(worker: DeviceWorker, probe: Callable[[], object] | None, longest_s: float) -> str | None:
    """Says what is wrong with a device; None where it works.

    A device is judged by its last success. An idle one that has failed, or has had nothing to do for a while, runs a
    network once as a test.

    Args:
        worker: owner of the device.
        probe: runs a network on it; None where it has none.
        longest_s: how long a job may take.
    """
    if worker.stalled_s() > longest_s:
        return f"has finished nothing for {longest_s:g} s"
    is_fresh = not worker.has_failed and time.monotonic() - worker.last_success <= _FRESH_S
    if worker.is_idle and probe is not None and not is_fresh:
        try:
            await asyncio.wait_for(asyncio.wrap_future(worker.submit(probe)), _PROBE_S)
        except TimeoutError:
            return f"did not run a network within {_PROBE_S:g} s"
        except Exception as error:
            return f"cannot run a network: {type(error).__name__}"
    return "failed, and has not worked since" if worker.has_failed else None
