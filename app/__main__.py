"""The command line: `python -m app serve`, `python -m app models` and `python -m app settings`."""

import argparse
import logging
import os
import sys
from pathlib import Path

from app.process import prepare_process


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app", description="Explains image classifiers over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="serve on CAM_HOST:CAM_PORT")
    commands.add_parser("models", help="list the networks of the catalogue")
    settings = commands.add_parser("settings", help="list the environment variables, as a table in Markdown")
    settings.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    parsed = parser.parse_args(arguments)
    if parsed.command == "models":
        return _list_models()
    if parsed.command == "settings":
        return _list_settings(parsed.write)
    prepare_process()
    # Imported only now: PyTorch looks at its environment when it is loaded.
    from app.serving import serve

    return serve()


def _list_models() -> int:
    from service_models import CATALOGUE

    for spec in CATALOGUE.values():
        layers = ", ".join(f"{name}: {path}" for name, path in (spec.layers or {}).items())
        print(f"{spec.name:34}{spec.library:13}{layers}")
    print("and every classification network of torchvision and timm by its name")
    return 0


def _list_settings(page: Path | None) -> int:
    from app.documentation import settings_table, write_settings

    if page is None:
        print(settings_table())
        return 0
    try:
        write_settings(page)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    sys.stdout.flush()
    # Everything is closed, and to take PyTorch and OpenVINO apart would take seconds more.
    os._exit(status)
