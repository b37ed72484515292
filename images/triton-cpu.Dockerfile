# Triton for hosts without a GPU: the stock image and OpenVINO, which the entries of the python backend compute with.
ARG TRITON=nvcr.io/nvidia/tritonserver:26.05-py3

FROM ${TRITON}
ARG VERSION=dev
LABEL org.opencontainers.image.title="Conch Triton for CPUs" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}"
USER 0
COPY requirements/serve.txt /tmp/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN grep -E "^(numpy|openvino)==" /tmp/serve.txt \
        | xargs python3 -m pip install --no-cache-dir --no-deps --break-system-packages \
    && rm /tmp/serve.txt
USER 1000:1000
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["curl", "--noproxy", "*", "--fail", "--silent", "http://127.0.0.1:8000/v2/health/ready"]
