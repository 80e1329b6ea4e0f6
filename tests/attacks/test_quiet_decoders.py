"""What a picture makes its decoder's libraries say is no line of the service's log."""

import socket
import struct
import subprocess
from contextlib import ExitStack

from app.imaging.messages import LENGTH, decode_message, pack, unpack
from app.imaging.reading import DecodeSpec
from app.runtime.image_process import CHILD
from service_models.spec import Preprocessing
from testing.attacks.seeds import sound_files

DECODE_SPEC = DecodeSpec.of(Preprocessing())


def with_a_tag_that_libtiff_complains_about(data: bytes) -> bytes:
    """The file with a count of two for its height."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry) == (284,):
            return data[: entry + 4] + struct.pack("<I", 2) + data[entry + 8 :]
    raise AssertionError("it has no such tag")


def said_by_child(data: bytes) -> tuple[dict[str, object], bytes]:
    """What a child answers about a file in the end, and what it writes to its standard error."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        command = [*CHILD, "1000000"]
        child = stack.enter_context(subprocess.Popen(command, stdin=theirs.fileno(), stderr=subprocess.PIPE))
        theirs.close()
        stream = stack.enter_context(ours.makefile("rwb"))

        def receive() -> dict[str, object]:
            return unpack(stream.read(LENGTH.unpack(stream.read(LENGTH.size))[0]))

        assert receive() == {"ready": True}
        stream.write(pack(decode_message(DECODE_SPEC, len(data), 20.0)) + data + pack({"go": True, "limit_s": 5.0}))
        stream.flush()
        answer = receive()
        if "error" not in answer:
            answer = receive()
        ours.shutdown(socket.SHUT_RDWR)
        assert child.stderr is not None
        return answer, child.stderr.read()


def test_complaints_of_libtiff_do_not_reach_the_log() -> None:
    data = with_a_tag_that_libtiff_complains_about(sound_files()["TIFF LZW"])
    _, written = said_by_child(data)
    assert written == b""
