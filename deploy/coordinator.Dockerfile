# The coordinator, without TensorFlow. Build it from the root of the repository:
#   docker build -f deploy/coordinator.Dockerfile -t holdfast-coordinator .
# For runs on an object store: --build-arg EXTRAS=s3 (or gcs, azure).
# A tag may name another image tomorrow. To build from the same one again, give the digest that
# `docker buildx imagetools inspect python:3.11-slim-bookworm` shows: --build-arg PYTHON=python@sha256:...

ARG PYTHON=python:3.11-slim-bookworm
FROM ${PYTHON} AS build
WORKDIR /source
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt build hatchling
COPY pyproject.toml README.md LICENSE ./
COPY protos ./protos
COPY storage ./storage
COPY coordinator ./coordinator
COPY worker ./worker
RUN python -m build --wheel --no-isolation --outdir /dist

FROM ${PYTHON}
# The shared volume gets this owner when it is first mounted; the workers' image has the same one.
RUN groupadd --gid 10001 holdfast \
    && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin holdfast \
    && install -d -o holdfast -g holdfast /checkpoints
COPY --from=build /dist /dist
COPY constraints.txt /dist/
ARG EXTRAS=""
# The wheel just built has one version only.
# hadolint ignore=DL3013
RUN set -- /dist/*.whl && pip install --no-cache-dir --constraint /dist/constraints.txt "$1${EXTRAS:+[$EXTRAS]}"
COPY deploy/healthcheck.py /opt/holdfast/
# Whom `holdfast status RUN` asks in this container.
ENV PYTHONUNBUFFERED=1 HOLDFAST_COORDINATOR=127.0.0.1:7070
USER 10001:10001
EXPOSE 7070
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "/opt/holdfast/healthcheck.py", "127.0.0.1:7070"]
ENTRYPOINT ["holdfast"]
CMD ["coordinator", "--root", "/checkpoints", "--listen", "0.0.0.0:7070"]
