# BLIP in a container: every command, and the server.
#
#   docker build -t blip .
#   docker run --rm -v "$PWD/photos:/data:ro" blip caption /data
#   docker run --rm -p 8000:8000 blip serve --host 0.0.0.0
#
# Models that were fetched and the index of photos lie in /cache: `-v blip:/cache` keeps them.
#
# TORCH_INDEX is the package index that torch is taken from, as in the Makefile. Empty, the usual one: on x86 its torch
# brings CUDA (several GB) and runs on an NVIDIA GPU (`docker run --gpus all`) as on a CPU. With the address of an index
# that has CPU builds (`--build-arg TORCH_INDEX=...`) the image is small and for CPUs only.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
ARG EXTRAS=data,heif,video,search,serve,onnx
WORKDIR /src
RUN python -m venv /opt/blip
ENV PATH=/opt/blip/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY lite lite
COPY src src
RUN pip install -c constraints.txt ./lite ".[$EXTRAS]"

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 1000 blip && mkdir /cache && chown blip /cache
COPY --from=build /opt/blip /opt/blip
ENV PATH=/opt/blip/bin:$PATH BLIP_CACHE=/cache BLIP_HOME=/cache/home HF_HOME=/cache/hub PYTHONUNBUFFERED=1
USER blip
WORKDIR /home/blip
VOLUME /cache
EXPOSE 8000
ENTRYPOINT ["blip"]
CMD ["--help"]
