# xdlm-serve with its bundled checkpoints. VARIANT is cpu or cuda. Both come from the same locked
# packages; PyTorch's index for CPU builds, given as PIP_EXTRA_INDEX_URL, makes the cpu image small.
#   docker build -t xdlm-serve --build-arg PIP_EXTRA_INDEX_URL=... .
#   docker build -t xdlm-serve:cuda --build-arg VARIANT=cuda .
#   docker run --rm -p 127.0.0.1:8000:8000 -e XDLM_ALLOWED_HOSTS=localhost,127.0.0.1 xdlm-serve
# It is reached by whoever reaches the port that is published: beyond this machine, ask for keys.
# To pin the base too, build with --build-arg PYTHON=python:3.11.14-slim-bookworm@sha256:...
ARG PYTHON=python:3.11.14-slim-bookworm
ARG VARIANT=cpu

FROM ${PYTHON} AS build
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints/runtime.txt constraints/
COPY deploy/install.sh deploy/
COPY server server
COPY sampler sampler
COPY models models
COPY fusion fusion
COPY loadtest loadtest
RUN sh deploy/install.sh /src /opt/xdlm

FROM ${PYTHON} AS cpu
ENV XDLM_DEVICE=cpu

# Triton compiles what launches a kernel
FROM ${PYTHON} AS cuda
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ENV XDLM_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM ${VARIANT} AS image
COPY --from=build /opt/xdlm /opt/xdlm
# it listens in the container's own network; no name is looked up anywhere; PyTorch writes to /tmp
ENV PATH=/opt/xdlm/bin:$PATH XDLM_HOST=0.0.0.0 XDLM_PORT=8000 HF_HUB_OFFLINE=1 USER=xdlm HOME=/tmp
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"XDLM_PORT\"]}/health', timeout=2)"]
ENTRYPOINT ["xdlm"]
CMD ["serve"]
