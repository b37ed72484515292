# Triton for the torch backend on GPUs: Triton's server and its python backend out of NVIDIA's image, and torch with CUDA.
# NVIDIA's image has every backend and their libraries, which are several times as large. This one also compiles
# programs on the GPU that serves them: python3 -m export.plans ENTRY.
ARG TRITON=nvcr.io/nvidia/tritonserver:26.05-py3
# The same Ubuntu as NVIDIA's image is built on: its python backend is linked with this Python.
ARG BASE=docker.io/library/ubuntu:24.04

FROM ${TRITON} AS triton
# hadolint ignore=DL3002
USER 0
WORKDIR /opt/tritonserver
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# And the libraries that they are linked with. Those of the C library and the driver belong to the base and the host.
RUN mkdir -p /slim/libraries \
    && cp -r --parents bin/tritonserver lib/*.so* backends/python /slim/ \
    && find . -maxdepth 1 -iname '*license*' -exec cp -t /slim {} + \
    && ldd bin/tritonserver lib/*.so* backends/python/*.so backends/python/*_stub \
        | sed -n 's|.* => \(/[^ ]*\) .*|\1|p' | sort -u \
        | grep -vE '/(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|nsl|gcc_s|stdc\+\+|python3.*|cuda|nvidia-.*|triton.*))\.so' \
        | xargs cp -L -t /slim/libraries \
    && find / -xdev -name 'libdcgm*.so*' -not -path '/slim/*' -exec cp -P -t /slim/libraries {} +

FROM ${BASE} AS packages
# The base pins Ubuntu's release; its updates are wanted.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3-pip
ARG TORCH_INDEX=https://pypi.org/simple
# For torch without CUDA, from its index https://download.pytorch.org/whl/cpu: ^(torch==|cuda|nvidia|triton)
ARG LEFT_OUT=^torch==
COPY requirements/triton.txt /
# The second index is for torch alone: what else it has may not take the place of a package.
RUN python3 -m pip install --no-cache-dir --no-deps --compile --target /packages --extra-index-url "$TORCH_INDEX" \
        "$(grep ^torch== /triton.txt)" \
    && grep -vE "$LEFT_OUT" /triton.txt > /others.txt \
    && python3 -m pip install --no-cache-dir --no-deps --compile --target /packages -r /others.txt

FROM ${BASE}
ARG VERSION=dev
LABEL org.opencontainers.image.title="Conch Triton" \
    org.opencontainers.image.description="Triton Inference Server with torch, for embedding and rerank models on GPUs" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl g++ libpython3-dev python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*
COPY --from=packages /packages /opt/conch/packages
COPY --from=triton /slim /opt/tritonserver
# Triton's Python ignores PYTHONPATH. Its libraries are the last to be looked at, because torch has its own of CUDA. What may
# be missing is the driver, which the host brings.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN echo /opt/conch/packages > /usr/lib/python3/dist-packages/conch.pth \
    && echo /opt/tritonserver/libraries > /etc/ld.so.conf.d/zz-tritonserver.conf \
    && ldconfig \
    && ! { ldd /opt/tritonserver/bin/tritonserver /opt/tritonserver/backends/python/*.so /opt/tritonserver/backends/python/*_stub \
        | grep 'not found' | grep -vE 'lib(cuda|nvidia-ml)\.so'; }
# The headers that compiled programs include: those of CUDA come from several packages.
RUN [ ! -d /opt/conch/packages/nvidia ] \
    || printf '#include <cuda_runtime.h>\n#include <cuda_fp16.h>\n' \
    | g++ -x c++ -fsyntax-only -I /opt/conch/packages/nvidia/cu13/include -
COPY export/__init__.py export/errors.py /app/export/
COPY export/plans /app/export/plans
COPY export/runtime /app/export/runtime
COPY images/preflight.sh images/entrypoint.sh /opt/conch/
WORKDIR /app
USER 1000:1000
# A user may have no name here, but torch asks for it (getpass). The compiler needs a place to write: /tmp.
# GKE mounts the driver into /usr/local/nvidia, and expects images to look there. CUDA numbers GPUs as nvidia-smi does only if told.
ENV PATH=/opt/tritonserver/bin:$PATH:/usr/local/nvidia/bin \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    LIBRARY_PATH=/usr/local/nvidia/lib64 \
    CUDA_DEVICE_ORDER=PCI_BUS_ID \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=triton-server \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 8000 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["curl", "--noproxy", "*", "--fail", "--silent", "http://127.0.0.1:8000/v2/health/ready"]
ENTRYPOINT ["/bin/sh", "/opt/conch/entrypoint.sh"]
CMD ["tritonserver", "--model-repository=/models"]
