# docker build -t contextwm .   (any base with Python 3.11 or 3.12 and apt: --build-arg BASE_IMAGE=...)
ARG BASE_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04
FROM ${BASE_IMAGE}

# OSMesa draws on a CPU, EGL on a GPU; ffmpeg comes with the Python libraries.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates git libegl1 libgl1 libopengl0 libosmesa6 make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_DRIVER_CAPABILITIES=compute,graphics,utility PYTHONUNBUFFERED=1

RUN useradd --create-home cwm && install -d -o cwm /contextwm
USER cwm
WORKDIR /contextwm

# The libraries first: they change seldom and take the longest.
COPY --chown=cwm Makefile requirements.lock pyproject.toml ./
ARG TORCH=torch==2.13.0
RUN make libraries TORCH="${TORCH}" && rm -rf ~/.cache
COPY --chown=cwm . .
RUN make setup TORCH="${TORCH}" && rm -rf ~/.cache

ENV PATH=/contextwm/.venv/bin:$PATH
CMD ["snakemake", "--cores", "all", "all"]
