# Each target does its own set-up: a virtual environment in .venv with the pinned, hashed dependencies.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# pip from outside installs into the environment, so that Debian's python3 without python3-venv will do.
# The lock files are complete but for OpenVINO's telemetry, which would report to the outside and is not missed.
INSTALL := $(PYTHON) -m pip --python $(PY) install --quiet --disable-pip-version-check --require-hashes --no-deps

.PHONY: serve test check bench lock
serve: $(VENV)/.runtime
	$(PY) -m app serve

test: $(VENV)/.dev
	$(PY) -m pytest

check: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(VENV)/.dev
	$(PY) -m benchmarks

# Pins without index addresses; needs uv.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-emit-package openvino-telemetry --no-annotate --no-header --extra telemetry pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-emit-package openvino-telemetry --no-annotate --no-header --extra telemetry --extra dev -c requirements.lock pyproject.toml \
		-o requirements-dev.lock

$(PY):
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.runtime: requirements.lock | $(PY)
	@echo "installing the service (PyTorch is large: this takes minutes)"
	$(INSTALL) -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(PY)
	@echo "installing the service and its test tools (PyTorch is large: this takes minutes)"
	$(INSTALL) -r requirements-dev.lock
	@touch $@ $(VENV)/.runtime
