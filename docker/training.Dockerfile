# Fine-tuning and evaluation on de-identified exports. It has no way to the database and needs none.
FROM python:3.11-slim-bookworm
ARG TORCH_INDEX=
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/wetread
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"
COPY casebook casebook
COPY codestreams codestreams
COPY worker worker
COPY training training
COPY config config
COPY models models
RUN pip install -c constraints.txt --editable '.[training]' \
    && useradd --system --uid 10001 --create-home wetread \
    && install -d -o wetread -g wetread -m 0750 /opt/wetread/runs
USER wetread
VOLUME /opt/wetread/runs
ENTRYPOINT ["python"]
CMD ["training/finetune.py", "config/training/phantom.yaml"]
