# An app server behind the sidecar: Debian's cheroot and Flask, the Python SDK, and the example application.
# Build with the repository's root as context.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}

# A base image that has them already needs no network here.
RUN python3 -c 'import cheroot, flask' 2>/dev/null || { \
      apt-get update \
      && apt-get install --yes --no-install-recommends python3-cheroot python3-flask \
      && rm -rf /var/lib/apt/lists/*; }

COPY sdk/python /opt/anteroom/sdk
COPY deploy/compose/app /opt/anteroom/app
ENV PYTHONPATH=/opt/anteroom/sdk PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["python3", "/opt/anteroom/app/app.py"]
