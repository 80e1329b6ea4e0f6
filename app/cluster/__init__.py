"""What processes on a Ray cluster need to be ours."""

import os
import secrets
from pathlib import Path
from typing import Any

# Read by Ray when it is imported, here and in what it starts: nothing goes out, nobody comes in without the token.
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "app.cluster.proxy:middlewares",
}


def prepare_ray(address: str | None) -> None:
    """Turns usage statistics off and authentication by a token on, unless an operator has said otherwise.

    To be called before Ray is imported.

    Args:
        address: of a cluster that runs; None where one is started.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if address is None and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # Nobody else has to join: its token is nowhere on a disk.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray's C++ warns of the loss of what lies with this process itself, and calls that an error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ["PYTHONPATH"] = _python_path()


def worker_environment() -> dict[str, Any]:
    """The runtime environment of our workers: they find this package where it is not installed, and are set up."""
    return {
        "env_vars": {"PYTHONPATH": _python_path()},
        "worker_process_setup_hook": "app.process.prepare_worker",
    }


def _python_path() -> str:
    root = str(Path(__file__).parents[2])
    others = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join(dict.fromkeys([root, *others]))
