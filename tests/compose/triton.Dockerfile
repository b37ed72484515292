# Bears the name of NVIDIA's image: Triton 2.51 and its python backend, as the wheel has them, at NVIDIA's places. No GPU.
FROM docker.io/library/debian:12-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl libpython3-dev patchelf python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
ARG WHEEL
RUN python3 -m pip install --no-cache-dir --no-deps --target /wheel "$WHEEL" \
    && mkdir -p /opt/tritonserver/backends /opt/tritonserver/lib \
    && mv /wheel/pytriton/tritonserver/bin /opt/tritonserver/ \
    && mv /wheel/pytriton/tritonserver/backends/python /opt/tritonserver/backends/ \
    && mv /wheel/pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub /opt/tritonserver/backends/python/ \
    && mv /wheel/nvidia_pytriton.libs/libtritonserver-*.so /opt/tritonserver/lib/ \
    && mv /wheel/nvidia_pytriton.libs /opt/libraries \
    && rm -r /wheel \
    && find /opt/tritonserver/backends -name '*.so' -exec patchelf --set-rpath /opt/tritonserver/lib {} + \
    && echo /opt/libraries > /etc/ld.so.conf.d/zz-tritonserver.conf && ldconfig
ENV PATH=/opt/tritonserver/bin:$PATH
USER 1000:1000
