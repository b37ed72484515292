# Builds TensorRT plans on the GPU that will serve them, in the same release of Triton, so that they load. Runs once.
ARG TRITON=nvcr.io/nvidia/tritonserver:26.05-py3

FROM ${TRITON}
ARG VERSION=dev
LABEL org.opencontainers.image.title="Conch TensorRT builder" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}"
COPY export/__init__.py export/errors.py /app/export/
COPY export/plans /app/export/plans
COPY export/runtime /app/export/runtime
COPY images/preflight.sh images/entrypoint.sh /opt/conch/
WORKDIR /app
# As the export, whose entries it completes.
USER 10001:10001
# CUDA numbers GPUs as nvidia-smi does only if told.
ENV PYTHONUNBUFFERED=1 \
    CUDA_DEVICE_ORDER=PCI_BUS_ID
ENTRYPOINT ["/bin/sh", "/opt/conch/entrypoint.sh"]
CMD ["python3", "-m", "export.plans", "--help"]
HEALTHCHECK NONE
