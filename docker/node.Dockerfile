# The hospital's side: DICOM in and out, HL7 in and out. No torch.
FROM python:3.11-slim-bookworm
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/wetread
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY casebook casebook
COPY codestreams codestreams
COPY dicom_node dicom_node
COPY console console
COPY config config
RUN pip install -c constraints.txt --editable '.[node,console]' \
    && useradd --system --uid 10001 wetread \
    && install -d -o wetread -g wetread -m 0700 /var/lib/wetread
USER wetread
VOLUME /var/lib/wetread
EXPOSE 11112
ENTRYPOINT ["wetread"]
CMD ["up", "--config", "/etc/wetread", "--data", "/var/lib/wetread", "--role", "listener", "--role", "sweeper", "--role", "io"]
