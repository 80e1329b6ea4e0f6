"""A clock on the wall that jumps for one process alone, while the machine's own and all monotonic clocks go on."""

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

# Loaded before the C library, it adds to whatever tells the time of day a number of seconds that lies in a file.
# What waits until a time of day (and should not) waits for hours then, or not at all.
_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long *offset;

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("WALL_CLOCK_OFFSET");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    offset = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void) zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result) *result = exact.tv_sec;
    return exact.tv_sec;
}
"""
COMPILER = shutil.which("cc")
VARIABLES = {"LD_PRELOAD": "{folder}/wall_clock.so", "WALL_CLOCK_OFFSET": "{folder}/offset"}


def install(folder: Path) -> None:
    """Compiles it into a folder; a process started with `VARIABLES` sees the right time until `jump` is called."""
    assert COMPILER is not None
    source = folder / "wall_clock.c"
    source.write_text(_SOURCE)
    command = [COMPILER, "-O2", "-shared", "-fPIC", "-o", str(folder / "wall_clock.so"), str(source), "-ldl"]
    subprocess.run(command, check=True)
    (folder / "offset").write_bytes(bytes(8))


def jump(folder: Path, seconds: int) -> None:
    """Puts the clock so far from the right time, at once."""
    with (folder / "offset").open("r+b") as file, mmap.mmap(file.fileno(), 8) as page:
        page[:] = struct.pack("l", seconds)
