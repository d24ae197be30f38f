# The image of every process: `sbh` (its entry point), Dagster's daemon, and the workers of Celery. deploy/image/README.md says how it is built and run.
# BASE with a digest makes the same image for ever: docker buildx imagetools inspect python:3.11-slim-bookworm
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
COPY deploy/image/requirements.txt /tmp/requirements.txt
RUN python -m venv /opt/sbh \
 && /opt/sbh/bin/pip install --no-cache-dir --no-deps --only-binary=:all: --require-hashes -r /tmp/requirements.txt
COPY . /src
RUN /opt/sbh/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM ${BASE}
# pg_dump has to be as new as the server: 14 to 18.
ARG POSTGRESQL=18
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates postgresql-common \
 && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
 && apt-get install -y --no-install-recommends "postgresql-client-${POSTGRESQL}" \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --home-dir /var/lib/sbh --shell /usr/sbin/nologin sbh \
 && install -d -o sbh -g sbh /var/lib/sbh/dagster /etc/sbh/secrets
COPY --from=build /opt/sbh /opt/sbh
ENV PATH=/opt/sbh/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SBH_SETTINGS=/etc/sbh/sbh.toml \
    DAGSTER_HOME=/var/lib/sbh/dagster
USER 10001
WORKDIR /var/lib/sbh
EXPOSE 8400 3000
ENTRYPOINT ["sbh"]
CMD ["serve", "--host", "0.0.0.0", "--behind-proxy"]
# For `sbh serve`; what runs another process gives its own check, as compose.yaml does.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8400/api/health/live', timeout=4).close()"]
