"""The log: nobody waits for its reader, nothing is lost without a word, and floods are counted."""

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.log_lines import LineStream, LineWriter
from app.logs import QueuedHandler, Repetitions

ROOM = 100_000
ROOT = Path(__file__).parents[1]


class Pipe:
    """A pipe with a log that ends in it."""

    def __init__(self) -> None:
        self.readable, self.writable = os.pipe()
        self.writer = LineWriter(self.writable, ROOM)
        self.handler = QueuedHandler(self.writer, logging.Formatter("%(levelname)s %(message)s"))

    def say(self, text: str, level: int = logging.INFO, error: Exception | None = None) -> None:
        failure = (type(error), error, error.__traceback__) if error else None
        self.handler.handle(logging.LogRecord("a", level, __file__, 0, text, None, failure))

    def read(self, until: str) -> list[str]:
        """All lines up to one that ends like this."""
        text = b""
        while not text.endswith(f"{until}\n".encode()):
            assert select.select([self.readable], [], [], 30)[0], text[-2000:]
            text += os.read(self.readable, 2**16)
        return text.decode().splitlines()

    def fill(self) -> None:
        """Has the thread stand in its write, with the last of three lines; a pipe takes two of them."""
        for _ in range(3):
            self.say("x" * 30_000)
        while self.writer._waiting > 31_000:
            time.sleep(0.001)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    # Has a thread that still writes end.
    os.close(made.readable)


def test_lines_come_in_order_and_whole(pipe: Pipe) -> None:
    for number in range(300):
        pipe.say(f"line {number} ✓\udcff")
    assert pipe.read("line 299 ✓\\udcff") == [f"INFO line {number} ✓\\udcff" for number in range(300)]


def test_nobody_waits_for_a_reader_who_does_not_come_and_the_missing_lines_are_counted(pipe: Pipe) -> None:
    pipe.fill()
    started = time.monotonic()
    for number in range(5000):
        pipe.say(f"line {number} {'y' * 100}")
    assert time.monotonic() - started < 5
    missing = pipe.writer.dropped
    assert 4000 < missing < 5000
    kept = pipe.read(f"line {4999 - missing} {'y' * 100}")[3:]
    assert [line.split()[2] for line in kept] == [str(number) for number in range(5000 - missing)]
    pipe.handler.flush()
    pipe.say("the reader is back")
    assert pipe.read("back") == [
        f"WARNING {missing:,} lines were dropped: nobody read the log",
        "INFO the reader is back",
    ]
    assert pipe.writer.dropped == missing


def test_after_a_loss_lines_are_taken_again_only_when_there_is_much_room(pipe: Pipe) -> None:
    pipe.fill()
    while not pipe.writer.dropped:
        pipe.say("x" * 1000)
    os.read(pipe.readable, 5_000)
    pipe.say("x" * 1000)
    assert pipe.writer.dropped == 2
    pipe.read("x")
    pipe.handler.flush()
    pipe.say("x" * 1000)
    assert pipe.writer.dropped == 2


def test_the_end_of_the_process_waits_for_a_moment_only(pipe: Pipe) -> None:
    pipe.fill()
    started = time.monotonic()
    pipe.writer.flush(0.2)
    assert 0.2 <= time.monotonic() - started < 2
    reader = threading.Timer(0.1, pipe.read, ("x",))
    reader.start()
    pipe.writer.flush(30)
    assert time.monotonic() - started < 10
    reader.join()


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    os.set_blocking(pipe.writable, False)
    for number in range(80):
        pipe.say(f"{number} {'x' * 1000}")
    time.sleep(0.2)
    assert len(pipe.read(f"79 {'x' * 1000}")) == 80
    assert pipe.writer.dropped == 0


def test_what_cannot_be_written_is_dropped() -> None:
    readable, writable = os.pipe()
    os.close(readable)
    writer = LineWriter(writable)
    writer.put(b"nobody\n")
    deadline = time.monotonic() + 30
    while not writer.dropped:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(writable)


def test_what_python_itself_writes_to_stderr_takes_the_same_way(pipe: Pipe) -> None:
    stream = LineStream(pipe.writer).as_text()
    pipe.say("first")
    print("second", "é", file=stream)
    pipe.say("third")
    assert pipe.read("third") == ["INFO first", "second é", "INFO third"]
    assert (stream.fileno(), stream.isatty()) == (pipe.writable, False)


def test_a_line_without_end_is_cut(pipe: Pipe) -> None:
    try:
        int(f"{'y' * 100_000}!")
    except ValueError as error:
        pipe.say("x" * 100_000 + "end", error=ValueError("y" * 100_000).with_traceback(error.__traceback__))
    (message, *traceback) = pipe.read("y")
    assert len(message) < 33_000
    assert message.endswith("xxxend")
    assert traceback[0] == "Traceback (most recent call last):"
    assert sum(map(len, traceback)) < 33_000


def said(repetitions: Repetitions, text: str, now: float, level: int = logging.ERROR, name: str = "a") -> bool:
    record = logging.LogRecord(name, level, __file__, 0, text, None, None)
    return not repetitions.is_suppressed(record, now)


def test_of_many_warnings_of_one_cause_ten_are_written_and_the_rest_is_counted() -> None:
    repetitions = Repetitions()
    assert [said(repetitions, "no descriptor\nsocket 1", 0) for _ in range(1010)] == [True] * 10 + [False] * 1000
    assert said(repetitions, "another", 1)
    assert said(repetitions, "no descriptor", 1, logging.WARNING)
    assert said(repetitions, "no descriptor", 1, name="b")
    assert list(repetitions.ended(9.9)) == []
    (summary,) = repetitions.ended(10)
    assert summary.getMessage() == "... and 1,000 more of these in the last 10 s: no descriptor"
    assert (summary.name, summary.levelno) == ("a", logging.ERROR)
    assert list(repetitions.ended(30)) == []
    assert said(repetitions, "no descriptor", 31)


def test_a_line_for_each_request_is_no_repetition() -> None:
    repetitions = Repetitions()
    assert all(said(repetitions, "%s %s", 0, logging.INFO) for _ in range(100))
    assert all(said(repetitions, "%s %s", 0, logging.WARNING, "app.access") for _ in range(100))


def test_ever_new_causes_do_not_fill_the_memory() -> None:
    repetitions = Repetitions()
    assert all(said(repetitions, f"cause {number}", 0) for number in range(2000))
    assert len(repetitions._causes) <= 500


def test_the_sum_is_written_while_nothing_else_is(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.logs._PERIOD_S", 0.5)
    for _ in range(12):
        pipe.say("again", logging.WARNING)
    assert pipe.read("s: again") == ["WARNING again"] * 10 + [
        "WARNING ... and 2 more of these in the last 0.5 s: again"
    ]


PROGRAM = """
import logging, sys, threading, warnings
from app.logs import set_up_logs
set_up_logs("json")
def fail():
    raise ValueError("in a thread")
thread = threading.Thread(target=fail)
thread.start(); thread.join()
warnings.warn("of a library")
logging.getLogger("b").warning("last words")
{end}
"""
ENDS = {
    "by itself": "",
    "by an exception": "raise SystemError('nobody caught it')",
    "at once": "import os; logging.shutdown(); os._exit(0)",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_last_lines_of_a_process_are_read(end: str) -> None:
    program = PROGRAM.format(end=ENDS[end])
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    lines = [json.loads(line)["message"] for line in ended.stderr.splitlines() if line.startswith("{")]
    assert "of a library" in lines[0]
    assert lines[1:] == ["last words"]
    assert "ValueError: in a thread" in ended.stderr
    assert ("SystemError: nobody caught it" in ended.stderr) == ("exception" in end)


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_although_nobody_reads(end: str) -> None:
    flood = "\nfor _ in range(3000): logging.getLogger('b').info('x' * 500); print('y' * 500, file=sys.stderr)\n"
    program = PROGRAM.format(end=flood + ENDS[end])
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        process.wait(30)
        process.kill()


def test_a_library_that_hushes_the_root_logger_does_not_hush_the_service() -> None:
    code = (
        "import logging; from app.logs import set_up_logs; set_up_logs('text'); "
        "logging.getLogger().setLevel('ERROR'); "
        "[logging.getLogger(name).info('heard') for name in ('app.access', 'service_models.x', 'uvicorn.error', 'x')]; "
        "logging.shutdown()"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True).stderr
    assert said.count("INFO: heard") == 3
