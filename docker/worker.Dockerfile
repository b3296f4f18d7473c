# The GPU side: a complete study becomes a draft. No DICOM network.
# The default index holds torch with CUDA; for a machine without a card: --build-arg TORCH_INDEX=<index of the CPU builds>
FROM python:3.11-slim-bookworm
ARG TORCH_INDEX=
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/wetread
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"
COPY casebook casebook
COPY codestreams codestreams
COPY worker worker
COPY console console
COPY config config
COPY models models
RUN pip install -c constraints.txt --editable '.[worker,console]' \
    && useradd --system --uid 10001 wetread \
    && install -d -o wetread -g wetread -m 0700 /var/lib/wetread
USER wetread
VOLUME /var/lib/wetread
ENTRYPOINT ["wetread"]
CMD ["up", "--config", "/etc/wetread", "--data", "/var/lib/wetread", "--role", "gpu"]
