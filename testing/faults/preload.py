"""Libraries that are loaded into a process before the C library, and a number by which they are told what to do."""

import mmap
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SHARED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long *told;

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("PRELOAD_NUMBER");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    told = page;
    close(file);
}
"""
COMPILER = shutil.which("cc")


@dataclass(frozen=True, slots=True)
class Preload:
    """A library in C.

    Attributes:
        name: of its files.
        source: reads the number at `told`, where that is not NULL.
    """

    name: str
    source: str

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a process that it is loaded into; `{folder}` stands for where it is installed."""
        return {"LD_PRELOAD": f"{{folder}}/{self.name}.so", "PRELOAD_NUMBER": f"{{folder}}/{self.name}.number"}

    def install(self, folder: Path) -> None:
        """Compiles it into a folder, with the number at zero."""
        assert COMPILER is not None
        source = folder / f"{self.name}.c"
        source.write_text(_SHARED + self.source)
        library = folder / f"{self.name}.so"
        subprocess.run([COMPILER, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
        (folder / f"{self.name}.number").write_bytes(bytes(8))

    def tell(self, folder: Path, number: int) -> None:
        """Sets the number, at once."""
        with (folder / f"{self.name}.number").open("r+b") as file, mmap.mmap(file.fileno(), 8) as page:
            page[:] = struct.pack("l", number)


# Adds a number of seconds to whatever tells the time of day, for one process alone; monotonic clocks go on. What waits
# until a time of day (and should not) waits for hours then, or not at all.
WALL_CLOCK = Preload(
    "wall_clock",
    """
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && told && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *told;
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
""",
)

# Refuses whoever asks the C library for more than so many bytes at once; zero refuses nobody.
SCARCE_MEMORY = Preload(
    "scarce_memory",
    """
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static int is_too_much(size_t bytes) { return told && *told && bytes > (size_t) *told; }

static void *none(void) { errno = ENOMEM; return NULL; }

void *malloc(size_t bytes) { return is_too_much(bytes) ? none() : __libc_malloc(bytes); }

void *calloc(size_t count, size_t bytes) {
    size_t all;
    int overflows = __builtin_mul_overflow(count, bytes, &all);
    return overflows || is_too_much(all) ? none() : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes) { return is_too_much(bytes) ? none() : __libc_realloc(old, bytes); }

void *memalign(size_t line, size_t bytes) { return is_too_much(bytes) ? none() : __libc_memalign(line, bytes); }

void *aligned_alloc(size_t line, size_t bytes) { return memalign(line, bytes); }

int posix_memalign(void **result, size_t line, size_t bytes) {
    void *found = memalign(line, bytes);
    if (!found) return ENOMEM;
    *result = found;
    return 0;
}
""",
)
