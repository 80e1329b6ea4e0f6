"""Processes that are forked from one that has imported PyTorch, timm and Matplotlib, which takes 9 s each time."""

import multiprocessing

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["app.evaluation.command", "pytorch_grad_cam", "tests.evaluation.data"])
