"""`python -m app serve`: reads the settings and binds the port before anything heavy is imported."""

import logging

from pydantic import ValidationError

from app.listening import bind, cannot_listen
from app.logs import set_up_logs
from app.settings import Settings

_LOG = logging.getLogger("app")


def serve(*, on_ray: bool = False, address: str | None = None, most: int | None = None) -> int:
    """Serves until a signal comes; returns the exit status.

    Args:
        on_ray: whether networks run in replicas on a Ray cluster.
        address: of a cluster that runs; None starts one on this machine.
        most: replicas of a network under load; None for as many as there are devices.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        set_up_logs("auto")
        for mistake in error.errors():
            name = "_".join(("CAM", *map(str, mistake["loc"][:1]))).upper()
            _LOG.error("%s: %s", name, mistake["msg"])
        return 2
    set_up_logs(settings.log_format)
    if on_ray:  # the proxy of Ray Serve binds the port
        from app.serving import serve_on_cluster

        return serve_on_cluster(settings, address, most)
    try:
        sockets = bind(settings.host, settings.port)
    except (OSError, UnicodeError) as error:  # the host is no valid name
        _LOG.error(cannot_listen(settings.host, settings.port, error))
        return 1
    from app.serving import serve_here

    return serve_here(settings, sockets)
