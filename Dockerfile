# syntax=docker/dockerfile:1
# The engine alone: API worker, keeper and command line. Postgres and Redis are your own, or those
# of docker-compose.yml.

FROM python:3.13-slim AS build
COPY requirements.prod.lock /
# Only what the lock names, only with the hashes it names, and never a compiler.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --require-hashes -r /requirements.prod.lock
RUN printf '#!/bin/sh\nexec /opt/venv/bin/python -m engine "$@"\n' > /opt/venv/bin/velvetrope \
    && chmod +x /opt/venv/bin/velvetrope

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin velvetrope
COPY --from=build /opt/venv /opt/venv
COPY engine /app/engine
COPY lua /app/lua
COPY sql /app/sql
COPY docs/check_proof.py /app/docs/check_proof.py
RUN python -m compileall -q /app/engine
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    LOG_FORMAT=json
USER velvetrope
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/ready', timeout=2)"]
CMD ["velvetrope", "serve"]
