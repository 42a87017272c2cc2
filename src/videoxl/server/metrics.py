"""Numbers for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from videoxl.server.guard import App, Message, Receive, Send
from videoxl.server.services import Services
from videoxl.server.worker_process import WorkerProcess

SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


OF_WORKERS: dict[str, tuple[str, Callable[[WorkerProcess], float]]] = {
    "videoxl_worker_ready": ("Whether the model is loaded", lambda worker: float(worker.ready is not None)),
    "videoxl_worker_questions": ("Questions that wait or are being answered", lambda worker: worker.questions),
    "videoxl_worker_reading": ("Whether a video is being read", lambda worker: float(worker.reading is not None)),
    "videoxl_worker_restarts": ("How often the worker was started again", lambda worker: worker.restarts),
}
"""Numbers of each worker."""


class Now(Collector):
    """What can be counted at any moment."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        backend, store = self._services.backend, self._services.store
        numbers = {
            "videoxl_questions": ("Questions that wait or are being answered", backend.questions),
            "videoxl_readings_waiting": ("Readings that wait", store.waiting()),
            "videoxl_index_waiting": ("Files and memories that wait to be indexed", self._services.library.waiting),
        }
        for name, (text, value) in numbers.items():
            yield GaugeMetricFamily(name, text, value=value)
        for name, (text, number) in OF_WORKERS.items():
            metric = GaugeMetricFamily(name, text, labels=("worker", "device"))
            for worker in backend.workers:
                metric.add_metric((str(worker.number), worker.device), number(worker))
            yield metric


class Metrics:
    """Counts requests; ASGI, around everything else."""

    def __init__(self, app: App, services: Services) -> None:
        self._app = app
        self.registry = CollectorRegistry()
        self.registry.register(Now(services))
        labels = ("method", "route", "status")
        self._requests = Counter("videoxl_requests", "Requests", labels, registry=self.registry)
        text = "Seconds until the reply was complete"
        self._seconds = Histogram("videoxl_request_seconds", text, ("route",), buckets=SECONDS, registry=self.registry)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "none")  # of the app's own paths: no text of clients
            self._requests.labels(scope["method"] if scope["method"].isalpha() else "?", route, str(status)).inc()
            self._seconds.labels(route).observe(time.perf_counter() - began)
        return None

    def page(self) -> Response:
        """Everything, as Prometheus reads it."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
