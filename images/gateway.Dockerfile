# The gateway: Python, what it imports, and its code. It keeps nothing but batches, in /batches if that is
# set, so the root file system may be read-only.
ARG BASE=docker.io/library/debian:12-slim
# A digest pins it to the byte: --build-arg BASE=docker.io/library/debian:12-slim@sha256:...

FROM ${BASE} AS build
# The base pins Debian's release; its updates are wanted.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3-venv
COPY requirements/gateway.txt /
# Compiled here, since nothing can be written where it runs. pip is not needed there.
RUN python3 -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --no-deps --compile -r /gateway.txt \
    && /venv/bin/pip uninstall -y pip setuptools \
    && find /venv -name tests -type d -prune -exec rm -r {} +
COPY gateway /app/gateway
RUN python3 -m compileall -q /app

FROM ${BASE}
ARG VERSION=dev
LABEL org.opencontainers.image.title="Conch gateway" \
    org.opencontainers.image.description="Embedding and rerank APIs on Triton Inference Server" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/* \
    && install -d -m 700 -o 10001 -g 10001 /batches
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GATEWAY_HOST=0.0.0.0 \
    GATEWAY_PORT=8080 \
    GATEWAY_MODEL_REPOSITORY=/models
EXPOSE 8080
# Without proxies, which a container's environment may name.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as http; http.build_opener(http.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['GATEWAY_PORT'] + '/health/ready')"]
ENTRYPOINT ["python", "-m", "gateway"]
