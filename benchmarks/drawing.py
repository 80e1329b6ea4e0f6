"""`python -m benchmarks.drawing`: pictures that are read and drawn a second, with one image process a processor.

Each process is bound to a processor of its own. What the network would do is left out.
"""

import asyncio
import os
import statistics
import struct
import time

from app.imaging.colour import colormap_table
from app.imaging.overlay import Colouring
from app.imaging.reading import DecodeSpec
from app.imaging.rendering import Drawing, RenderSpec
from app.runtime.image_processes import ImageProcesses
from app.runtime.picture_request import read_picture
from benchmarks.measure import row, table
from service_models.spec import Preprocessing
from testing.pictures import encoded, photograph

_SIZE = (1600, 1067)
_MAX_PIXELS = 64_000_000
_CALLERS = 16
_PICTURES = 96
_ROUNDS = 5
_SIDE = 7


async def seconds(count: int) -> float:
    """How long `count` processes take for all pictures, with an overlay each."""
    picture = encoded(photograph("coffee").resize(_SIZE), "JPEG", quality=90)
    spec = DecodeSpec.of(Preprocessing(), "crop", 0)
    levels = struct.pack(f"{_SIDE * _SIDE}f", *(number / _SIDE**2 for number in range(_SIDE**2)))
    drawings = (Drawing("overlay", (_SIDE, _SIDE), levels),)
    drawn = 4 * _SIZE[0] * _SIZE[1]
    images = ImageProcesses(count, _MAX_PIXELS)
    await images.pool.start()
    for number, pid in enumerate(sorted(images.pool.pids)):
        os.sched_setaffinity(pid, {sorted(os.sched_getaffinity(0))[number]})
    left = iter(range(_PICTURES))

    async def caller() -> None:
        for _ in left:
            async with read_picture(images, picture, spec, drawn_bytes=lambda _size: drawn) as reading:
                await reading.render(
                    [RenderSpec(reading.picture.canvas, Colouring(colormap_table("jet"), 0.5), drawings)]
                )

    try:
        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
        return time.perf_counter() - started
    finally:
        await images.pool.close()


def main() -> None:
    """Prints a table, the counts measured in turn."""
    counts = range(1, len(os.sched_getaffinity(0)) + 1)
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(_ROUNDS):
        for count in counts:
            times[count].append(asyncio.run(seconds(count)))
    print("\n".join(table("image processes", "pictures a second", "over one process")))
    for count in counts:
        ratios = [one / many for one, many in zip(times[1], times[count], strict=True)]
        median = statistics.median(ratios)
        row(
            count,
            f"{_PICTURES / statistics.median(times[count]):.1f}",
            f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        )


if __name__ == "__main__":
    main()
