# The demo service under the launcher. Everything is installed at the versions and hashes of requirements/service.txt; only torch may come from
# elsewhere: by default from PyTorch's own index, whose CPU build is a tenth of the size. For a GPU: --build-arg TORCH_INDEX=pypi
FROM python:3.13-slim-bookworm
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
WORKDIR /app
COPY requirements/service.txt requirements/build.txt requirements/
RUN if [ "$TORCH_INDEX" = pypi ]; then \
        pip install --require-hashes -r requirements/service.txt; \
    else \
        awk '/^[^ ]/ { keep = !/^(torch|triton|nvidia|cuda)[-a-z0-9]*==/ } keep' requirements/service.txt > /tmp/rest.txt \
        && pip install --require-hashes --no-deps -r /tmp/rest.txt \
        && pip install --no-deps --index-url "$TORCH_INDEX" "$(grep -oE '^torch==[0-9.]+' requirements/service.txt | head -1)"; \
    fi
COPY pyproject.toml README.md LICENSE ./
COPY vibevoice_otel vibevoice_otel
RUN pip install --require-hashes -r requirements/build.txt && pip install --no-deps --no-build-isolation . && useradd --uid 10002 --create-home vibevoice
USER 10002
EXPOSE 8000
CMD ["opentelemetry-instrument", "python", "-m", "vibevoice_otel.service", "--host", "0.0.0.0", "--port", "8000"]
