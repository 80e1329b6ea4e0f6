"""The service as `python -m app serve` runs it, but its workers die on SIGUSR1."""

import ctypes
import signal
import sys
import threading

from app.__main__ import main


def _kill_workers(_signal: int, _frame: object) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("device-"):
            identity = ctypes.c_ulong(thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(SystemExit))


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _kill_workers)
    sys.exit(main(["serve"]))
