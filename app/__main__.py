"""The command line: `python -m app serve` and `python -m app models`."""

import argparse
import logging
import signal
import sys

import uvicorn
from pydantic import ValidationError

from app.main import create_app
from app.settings import Settings
from service_models import CATALOGUE, NetworkError

_LOG = logging.getLogger("app")


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app", description="Explains image classifiers over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve on CAM_HOST:CAM_PORT (README lists all settings)")
    commands.add_parser("models", help="list the networks of the catalogue")
    command = parser.parse_args(arguments).command
    return _list_models() if command == "models" else _serve()


def _list_models() -> int:
    for spec in CATALOGUE.values():
        layers = ", ".join(f"{name}: {path}" for name, path in (spec.layers or {}).items())
        print(f"{spec.name:34}{spec.library:13}{layers}")
    print("and every classification network of torchvision and timm by its name")
    return 0


def _serve() -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings()
    except ValidationError as error:
        for mistake in error.errors():
            name = "_".join(("CAM", *map(str, mistake["loc"][:1]))).upper()
            _LOG.error("%s: %s", name, mistake["msg"])
        return 2
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, on_ready=lambda: _say_where(server), on_failure=fail)
    config = uvicorn.Config(app, settings.host, settings.port, log_config=None, server_header=False)
    server = uvicorn.Server(config)
    # uvicorn ends in good order on these signals, and then raises them again for whoever started it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    server.run()
    if not failures:
        return 0 if server.started else 1
    failure = failures[0]
    known = isinstance(failure, NetworkError | ValueError)
    _LOG.error("cannot start: %s", failure, exc_info=None if known else failure)
    return 1


def _say_where(server: uvicorn.Server) -> None:
    if not server.started or server.should_exit:
        return
    # The port of the socket, not of the settings: 0 takes a free one.
    port = server.servers[0].sockets[0].getsockname()[1]
    host = f"[{server.config.host}]" if ":" in server.config.host else server.config.host
    url = f"http://{host}:{port}"
    _LOG.info(
        "ready. The API page: %s/docs\n"
        "      A first picture: curl -F image=@photo.jpg -H 'Accept: image/png' %s/v1/explain -o overlay.png",
        url,
        url,
    )


if __name__ == "__main__":
    sys.exit(main())
