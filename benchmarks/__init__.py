"""What the service costs, as ratios measured in one run."""

from app.process import prepare_process

# Both sides of every ratio run in a process that is prepared as the service's is.
prepare_process()
