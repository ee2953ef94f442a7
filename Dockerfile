# The sidecar's image; `--target demo` makes the demo API's. Both run as a user without a name, on a root file system that
# may be read-only: what the sidecar keeps is in the volume /var/lib/sidecache.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1
WORKDIR /src
RUN python -m venv /opt/sidecache
# The packages change seldom, and are a layer of their own. Only files whose hashes are in the lock are taken.
COPY requirements.lock ./
RUN /opt/sidecache/bin/pip install --no-cache-dir --only-binary :all: --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy/ proxy/
COPY plugins/ plugins/
# setuptools, from the lock, has done its work then; pip has nothing to do in a container that runs.
RUN /opt/sidecache/bin/pip install --no-cache-dir --no-deps --no-build-isolation . \
  && /opt/sidecache/bin/pip uninstall --yes setuptools pip


FROM python:${PYTHON_VERSION}-slim-bookworm AS base
COPY --from=build /opt/sidecache /opt/sidecache
# Byte code was compiled by pip, and could not be written here.
ENV PATH=/opt/sidecache/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001


FROM base AS demo
WORKDIR /srv
COPY deploy/demo/ deploy/demo/
EXPOSE 9000
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9000/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "deploy.demo.api"]
CMD ["--host", "0.0.0.0", "--port", "9000"]


FROM base AS sidecache
LABEL org.opencontainers.image.title="Sidecache" \
      org.opencontainers.image.description="A caching and compression sidecar for HTTP APIs" \
      org.opencontainers.image.licenses="MIT"
# The volume takes its owner from this directory.
USER 0:0
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/sidecache
USER 10001:10001
COPY config.toml /etc/sidecache/config.toml
COPY deploy/healthcheck.py /opt/sidecache/lib/healthcheck.py
# Listening beyond the loopback is what a container's port is for. The admin port stays within.
ENV SIDECACHE_SERVER__LISTEN=0.0.0.0:8080 \
    SIDECACHE_ADMIN__LISTEN=127.0.0.1:9090 \
    SIDECACHE_CACHE__LMDB_PATH=/var/lib/sidecache/cache.mdb
VOLUME /var/lib/sidecache
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-I", "/opt/sidecache/lib/healthcheck.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sidecache"]
CMD ["run", "--config", "/etc/sidecache/config.toml"]
