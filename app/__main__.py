"""The command line: `python -m app serve`, `check`, `evaluate`, `tables`, `models` and `settings`."""

import argparse
import logging
import os
import sys
from pathlib import Path

from app.evaluation.arguments import add_commands, count
from app.process import prepare_process, tune_process


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m app", description="Explains image classifiers over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_serve(commands.add_parser("serve", help="serve on CAM_HOST:CAM_PORT"))
    _add_check(commands.add_parser("check", help="do all that a start does with the networks of a file, but serve"))
    commands.add_parser("models", help="list the networks of the catalogue")
    settings = commands.add_parser("settings", help="list the environment variables, as a table in Markdown")
    settings.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    add_commands(commands)
    parsed = parser.parse_args(arguments)
    if parsed.command == "models":
        return _list_models()
    if parsed.command == "settings":
        return _list_settings(parsed.write)
    # PyTorch is imported only afterwards: it looks at its environment when it is loaded.
    if parsed.command in ("evaluate", "tables"):
        tune_process()
        from app.evaluation import command

        return command.evaluate(parsed) if parsed.command == "evaluate" else command.tables(parsed)
    if parsed.command == "check":
        tune_process()
        from app.check import check

        return check(parsed)
    prepare_process()
    from app.starting import serve

    return serve(on_ray=parsed.engine == "ray", address=parsed.address, most=parsed.replicas)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("embedded", "ray"), default="embedded", help="this process, or Ray Serve")
    parser.add_argument("--address", help="of the Ray cluster; default one on this machine")
    parser.add_argument("--replicas", type=count, help="of each network under load, at most; default one a device")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="the TOML file, as CAM_CONFIG names it")
    parser.add_argument("name", nargs="?", help="of a network; default all of the file")
    parser.add_argument("--image", type=Path, help="a picture whose most probable classes are shown")


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
