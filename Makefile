# Each target does its own set-up: a virtual environment in .venv with the pinned, hashed dependencies.
PYTHON ?= python3
# TORCH=cpu TORCH_INDEX=<address of a package index> leaves CUDA out (5 GB) and takes PyTorch from there.
TORCH ?= cuda
VENV := $(if $(filter cpu,$(TORCH)),.venv-cpu,.venv)
PY := $(VENV)/bin/python
IN_PARALLEL := -n 2
# pip from outside installs into the environment, so that Debian's python3 without python3-venv will do.
# The lock files are complete but for OpenVINO's telemetry, which would report to the outside and is not missed.
INSTALL := $(PYTHON) -m pip --python $(PY) install --quiet --disable-pip-version-check --no-deps
# Takes PyTorch, and what only PyTorch with CUDA needs, out of a lock file.
WITHOUT_TORCH := awk '/^[^ ]/ {kept = !/^(torch|torchvision|triton|(cuda|nvidia)-[^=]*)==/} kept'

ifeq ($(TORCH),cpu)
# Of the locked versions; their hashes are in requirements-torch-cpu.lock where that has been made.
TORCH_CPU = $(if $(wildcard requirements-torch-cpu.lock),--require-hashes -r requirements-torch-cpu.lock,\
	$(shell sed -n 's/^\(torch\(vision\)\{0,1\}==[^ ;]*\).*/\1/p' requirements.lock))
define install
	$(WITHOUT_TORCH) $(1) > $(VENV)/others.lock
	$(INSTALL) --require-hashes -r $(VENV)/others.lock
	$(INSTALL) --index-url '$(or $(TORCH_INDEX),$(error TORCH=cpu needs TORCH_INDEX=<address of a package index with CPU builds>))' $(TORCH_CPU)
endef
else
install = $(INSTALL) --require-hashes -r $(1)
endif

.PHONY: serve test test-all check bench lock
serve: $(VENV)/.runtime
	$(PY) -m app serve

# What a change is likely to break; tests/conftest.py says what belongs to which suite.
test: $(VENV)/.dev
	$(PY) -m pytest --suite quick $(IN_PARALLEL)

# Everything: then what takes long or needs system packages, and then what needs the machine for itself.
test-all: test .venv-clients/.installed
	$(PY) -m pytest --suite long $(IN_PARALLEL)
	$(PY) -m pytest --suite alone

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
		--no-emit-find-links --no-emit-package openvino-telemetry --no-annotate --no-header --extra telemetry --extra ray --extra transformers --extra dev -c requirements.lock pyproject.toml \
		-o requirements-dev.lock
	$(WITHOUT_TORCH) requirements.lock > requirements-cpu.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-emit-package openvino-telemetry --no-annotate --no-header --extra telemetry --extra transformers -c requirements.lock pyproject.toml \
		| grep -vxFf requirements.lock > requirements-transformers.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --no-header requirements-clients.in -o requirements-clients.lock

# The builds of PyTorch for the processor alone, with their hashes, for an image or an installation with TORCH=cpu:
# make requirements-torch-cpu.lock TORCH_INDEX=<address of an index that has them>
requirements-torch-cpu.lock: requirements.lock
	printf 'torch\ntorchvision\n' | uv pip compile --quiet --no-deps --python-version 3.12 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header --default-index $(TORCH_INDEX) -c requirements.lock - -o $@

$(PY):
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.runtime: requirements.lock | $(PY)
	@echo "installing the service (PyTorch is large: this takes minutes)"
	$(call install,requirements.lock)
	@touch $@

$(VENV)/.dev: requirements-dev.lock | $(PY)
	@echo "installing the service and its test tools (PyTorch is large: this takes minutes)"
	$(call install,requirements-dev.lock)
	@touch $@ $(VENV)/.runtime

# The clients of the protocols, apart: they need much that the service does not, in versions of their own.
.venv-clients/.installed: requirements-clients.lock
	@echo "installing the clients that the protocols are tested with"
	$(PYTHON) -m venv --without-pip .venv-clients
	$(PYTHON) -m pip --python .venv-clients/bin/python install --quiet --disable-pip-version-check --no-deps \
		--require-hashes -r requirements-clients.lock
	@touch $@
