# The service with its pinned, hashed dependencies, run by an ordinary user on a file system it cannot write to.
# TORCH=cuda (the default) uses a GPU where the host has one and the processor otherwise. TORCH=cpu leaves CUDA out and
# takes PyTorch from TORCH_INDEX, the address of a package index that has builds for the processor alone.
# TRANSFORMERS=yes adds the library that networks of Hugging Face need.
ARG PYTHON=3.12
ARG TORCH=cuda

FROM python:${PYTHON}-slim AS builder
WORKDIR /build
# pip from outside installs into the environment, so that the image's environment holds no pip.
RUN python -m venv --without-pip /opt/venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_DEPS=1

# Splits the lock in two. A stage that copies a file from here is built again only where that file differs, so another
# version of a small package does not fetch PyTorch anew.
FROM builder AS locks
COPY requirements*.lock ./
# Triton compiles kernels as it goes, which needs a C compiler that the image does not have. PyTorch does without it, and
# it weighs 1 GB.
RUN cp requirements-cpu.lock others.lock \
    && grep -vxFf requirements-cpu.lock requirements.lock \
       | awk '/^[^ ]/ {kept = !/^triton==/} kept' > torch.lock

FROM builder AS torch-cuda
COPY --from=locks /build/torch.lock .
RUN python -m pip --python /opt/venv/bin/python install --require-hashes -r torch.lock

# The hashes in the lock are those of the builds with CUDA. requirements-torch-cpu.lock, where there is one, has the
# others (docs/deployment.md says how it is made); without it the versions are pinned and the index is trusted.
FROM builder AS torch-cpu
ARG TORCH_INDEX
COPY --from=locks /build/torch.lock /build/requirements-torch-cpu.loc[k] ./
RUN : "${TORCH_INDEX:?TORCH=cpu needs --build-arg TORCH_INDEX=<address of an index with CPU builds of PyTorch>}" \
    && if [ -f requirements-torch-cpu.lock ]; then set -- --require-hashes -r requirements-torch-cpu.lock; \
       else set -- $(sed -n 's/^\(torch\(vision\)\{0,1\}==[^ ;]*\).*/\1/p' torch.lock); fi \
    && python -m pip --python /opt/venv/bin/python install --index-url "$TORCH_INDEX" "$@"

FROM torch-${TORCH} AS torch

FROM builder AS others
COPY --from=locks /build/others.lock .
# The list is complete but for OpenVINO's telemetry, which is not wanted.
RUN python -m pip --python /opt/venv/bin/python install --require-hashes -r others.lock
# Only what others.lock does not have.
ARG TRANSFORMERS=no
COPY requirements-transformers.lock .
RUN if [ "$TRANSFORMERS" = yes ]; then \
        python -m pip --python /opt/venv/bin/python install --require-hashes -r requirements-transformers.lock; \
    fi

FROM builder AS code
COPY app/ /service/app/
COPY service_models/ /service/service_models/
# Readable to the service whatever the umask of the checkout. Bytecode that is not checked against its source again: the
# source does not change in an image, but a copy may change its time.
RUN chmod -R u=rwX,go=rX /service && python -m compileall -q --invalidation-mode unchecked-hash /service

FROM python:${PYTHON}-slim
# Nothing is installed in a running container.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
    && groupadd --gid 10001 service \
    && useradd --uid 10001 --gid service --no-create-home --home-dir /tmp --shell /usr/sbin/nologin service \
    && install --directory --owner=service --group=service /weights
WORKDIR /service

# What is large and changes least comes first. The two halves of the environment have no file in common.
COPY --from=torch /opt/venv/ /opt/venv/
COPY --from=others /opt/venv/ /opt/venv/
COPY --from=code /service/ /service/

# Only /tmp and /weights need to be writable: what the hubs send is kept in /weights, what can be lost in /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    CUDA_CACHE_PATH=/tmp/cuda \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    HF_HOME=/weights/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    TORCH_HOME=/weights/torch \
    CAM_WEIGHTS_DIR=/weights \
    CAM_HOST=0.0.0.0 \
    CAM_PORT=8000 \
    # Read by NVIDIA's container toolkit: where it runs the container, every GPU that was granted is there.
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="shapley-cam-service" \
      org.opencontainers.image.description="Why did the classifier say that? Class activation maps as Shapley values, over HTTP." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# By number, since Kubernetes cannot tell from a name that it is not root's.
USER 10001:10001
EXPOSE 8000
VOLUME /weights

# http.client, since urllib would send the probe to a proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m --start-interval=1s CMD ["python", "-c", "\
import http.client, os, sys; \
probe = http.client.HTTPConnection('localhost', int(os.environ['CAM_PORT']), timeout=4); \
probe.request('GET', '/readyz'); \
sys.exit(probe.getresponse().status != 200)"]

ENTRYPOINT ["python", "-m", "app"]
CMD ["serve"]
