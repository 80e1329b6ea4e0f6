"""Shapes are checked at run time, and photographs come from the scikit-image package."""

from jaxtyping import install_import_hook

install_import_hook("app.cam", "beartype.beartype")
