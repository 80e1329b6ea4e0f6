"""The attribution methods: those that look at derivatives, those that mask, and those that play the game."""

from app.cam.methods import gradient, masking, shapley  # noqa: F401 - they register their methods
from app.cam.methods.registry import METHODS, Estimate, Evidence, Method

__all__ = ["METHODS", "Estimate", "Evidence", "Method"]
