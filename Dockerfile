# docker build -t contextwm --build-arg COMMIT="$(git describe --always --abbrev=40 --exclude='*' --dirty)" .
# apptainer build contextwm.sif docker-daemon:contextwm:latest    (for snakemake --sdm apptainer)
#
# Any base with apt and Python 3.11 or 3.12 does. CUDA's `base` is enough: the wheels of torch bring
# their CUDA libraries, and the driver comes from the host.
ARG BASE_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

# --- makes the environment, in three parts that change ever more often ---------------------------
FROM ${BASE_IMAGE} AS builder
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /tools \
    && python3 -m venv --without-pip /opt/venv
WORKDIR /contextwm

# torch and its CUDA libraries only: whatever else it needs is in the lock. TORCH takes pip's options.
ARG TORCH=torch==2.13.0
# hadolint ignore=SC2086
RUN pip='/tools/bin/pip --no-cache-dir --python /opt/venv' \
    && $pip install ${TORCH} \
    && $pip freeze --all | grep -vE '^(cuda|nvidia|torch|triton)' | xargs $pip uninstall -y

# The libraries, by hash, without the tools of development.
COPY requirements.lock requirements.txt ./
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.lock > uv.txt \
    && sed '/^# development/,$d' requirements.txt > wanted.txt \
    && /tools/bin/pip install --no-cache-dir -r uv.txt \
    && /tools/bin/uv pip install --no-cache --system-certs --python /opt/venv --prefix /libraries \
        --compile-bytecode --require-hashes --constraint requirements.lock -r wanted.txt

# cwm itself: a command, and where its code lies.
COPY . .
RUN /tools/bin/uv pip install --no-cache --system-certs --python /opt/venv --prefix /cwm \
        --no-deps --build-constraint requirements.lock --editable .

# --- what runs -----------------------------------------------------------------------------------
FROM ${BASE_IMAGE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# OSMesa draws on a CPU, EGL on a GPU; libglvnd finds NVIDIA's EGL by the file, which not every
# container toolkit brings. ffmpeg comes with the Python libraries. runtime.compile needs g++ and
# Python's headers: Triton and torch compile at run time.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates g++ libegl1 libgl1 libopengl0 libosmesa6 python3 python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && echo '{"file_format_version": "1.0.0", "ICD": {"library_path": "libEGL_nvidia.so.0"}}' \
        > /usr/share/glvnd/egl_vendor.d/10_nvidia.json
ENV NVIDIA_DRIVER_CAPABILITIES=compute,graphics,utility

# Any user may run this (docker run --user): the four folders that are written to are open to all.
RUN useradd --uid 10001 --create-home cwm \
    && install -d -m 1777 /home/cwm /contextwm/results /contextwm/data /contextwm/.snakemake
ENV HOME=/home/cwm USER=cwm PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /contextwm

COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /libraries /opt/venv
COPY --from=builder /cwm /opt/venv
COPY . .

# .git is not in here.
ARG COMMIT=unknown
ENV CWM_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="contextwm" \
      org.opencontainers.image.description="Contextualized world models: from videos to agents" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${COMMIT}"

USER 10001
# The command starts, results can be kept, and the GPU, if there is one, has not been lost.
HEALTHCHECK --interval=1m --timeout=30s --start-period=30s \
    CMD ["bash", "-c", "cwm --help > /dev/null && test -w results && { test ! -e /dev/nvidiactl || nvidia-smi -L; }"]
CMD ["snakemake", "--cores", "all", "all"]
