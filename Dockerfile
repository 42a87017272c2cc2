# videoxl serve, in a container. Build: docker build -t videoxl . Run: see compose.yaml.
FROM python:3.12-slim

# libgl1 and libglib2.0-0: OpenCV, which the reading of text on screen uses.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 videoxl

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt ".[serve,structured,quant,asr,ocr]"

# Nothing runs as root; models and data lie on volumes.
USER videoxl
ENV HF_HOME=/models
VOLUME ["/models", "/data"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# Another address than loopback needs VIDEOXL_API_KEY, so that a container without one does not start.
ENTRYPOINT ["videoxl", "serve", "--host", "0.0.0.0", "--data", "/data"]
