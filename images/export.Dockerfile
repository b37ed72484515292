# The export: the frozen environment that models are traced, compared and written in. Runs once and ends.
ARG BASE=docker.io/library/debian:12-slim

FROM ${BASE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# The base pins Debian's release; its updates are wanted.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3-venv
COPY requirements/export.txt /
# The second index is for torch alone: what else it has may not take the place of a package.
RUN python3 -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --no-deps --compile --extra-index-url "$TORCH_INDEX" \
        "$(grep ^torch== /export.txt)" \
    && /venv/bin/pip install --no-cache-dir --no-deps --compile -r /export.txt \
    && /venv/bin/pip uninstall -y pip setuptools
COPY export /app/export
RUN python3 -m compileall -q /app

FROM ${BASE}
ARG VERSION=dev
LABEL org.opencontainers.image.title="Conch export" \
    org.opencontainers.image.description="Embedding, rerank and image-text models to a Triton model repository" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/* \
    && install -d -o 10001 -g 10001 /models /cache
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
USER 10001:10001
# Models come from the hub into /cache and go to /models; both are volumes.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache \
    HOME=/tmp
ENTRYPOINT ["python", "-m", "export", "--repository", "/models"]
HEALTHCHECK NONE
