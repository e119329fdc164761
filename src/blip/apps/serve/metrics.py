"""Figures of a server in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Prometheus metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("blip_requests", "Requests answered.", ["endpoint", "status"], registry=registry)
        self.seconds = Histogram(
            "blip_request_seconds", "From first byte to response.", ["endpoint"], buckets=SECONDS, registry=registry
        )
        self.images = Counter("blip_images", "Images and texts processed.", ["endpoint"], registry=registry)
        self.queue = Gauge("blip_queue_images", "Images in flight.", registry=registry)
        self.buffered = Gauge("blip_buffered_bytes", "Request bodies in memory.", registry=registry)
        self.batches = Histogram("blip_batch_size", "Images per batch.", buckets=SIZES, registry=registry)
        self.ready = Gauge("blip_ready", "1 if models are loaded and a worker is alive.", registry=registry)

    def record_response(self, endpoint: str, status: int, seconds: float) -> None:
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def to_text(self) -> bytes:
        return generate_latest(self.registry)
