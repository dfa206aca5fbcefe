# One Dockerfile for three uses: training and all other commands, the embedded server, Beam workers.
#
#     make image                  # docker run clozeline pretrain ..., docker run clozeline serve --embedded ...
#     make image TARGET=worker    # for Flink, Spark and Dataflow: pipeline/deploy/README.md
#
# Workers need the Python version of the machine that submits the job; `make image` passes that of `make`.
ARG PYTHON_VERSION=3.13
# A tag can be moved to another image; for builds that can be repeated, pass a digest: python@sha256:...
ARG PYTHON_IMAGE=python:${PYTHON_VERSION}-slim
ARG BEAM_IMAGE=apache/beam_python${PYTHON_VERSION}_sdk:2.77.0

FROM ${PYTHON_IMAGE} AS build
# An extra of Beam: gcp is needed on Dataflow.
ARG FILESYSTEM=
RUN python3 -m venv /opt/clozeline
ENV PATH=/opt/clozeline/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Before the sources, so that a change of them does not install the packages again.
COPY requirements.lock ./
RUN pip install --require-hashes --requirement requirements.lock
RUN test -z "$FILESYSTEM" || pip install --constraint requirements.lock "apache-beam[$FILESYSTEM]"
COPY pyproject.toml README.md LICENSE ./
COPY clozeline/ clozeline/
COPY pipeline/ pipeline/
COPY model/ model/
COPY serving/ serving/
RUN pip install --no-deps --no-build-isolation .

FROM ${PYTHON_IMAGE} AS base
COPY --from=build /opt/clozeline /opt/clozeline
ENV PATH=/opt/clozeline/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --create-home clozeline
USER 10001
WORKDIR /home/clozeline

FROM ${BEAM_IMAGE} AS beam

# Beam's boot program starts the worker, in the environment that is on the PATH.
FROM base AS worker
COPY --from=beam /opt/apache/beam /opt/apache/beam
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
ENTRYPOINT ["/opt/apache/beam/boot"]

# The last stage is the one that is built unless --target names another.
FROM base AS clozeline
EXPOSE 8500 8501
ENTRYPOINT ["clozeline"]
CMD ["--help"]
