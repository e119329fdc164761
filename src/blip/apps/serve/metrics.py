"""Figures for Prometheus, of one server: requests, times, queue, batches."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64)
TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters in a registry of their own, so that several servers can live in one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # times of first use, which nobody asks for
        self.registry = CollectorRegistry()
        self.requests = Counter("blip_requests", "Answered.", ["endpoint", "status"], registry=self.registry)
        self.seconds = Histogram(
            "blip_request_seconds", "From first byte to answer.", ["endpoint"], buckets=SECONDS, registry=self.registry
        )
        self.images = Counter("blip_images", "Images and texts worked on.", ["endpoint"], registry=self.registry)
        self.queue = Gauge("blip_queue_images", "Images waiting or worked on.", registry=self.registry)
        self.buffered = Gauge("blip_buffered_bytes", "Bodies in memory.", registry=self.registry)
        self.batches = Histogram("blip_batch_size", "Images done at once.", buckets=SIZES, registry=self.registry)
        self.ready = Gauge("blip_ready", "1 while models are loaded and work.", registry=self.registry)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        self.requests.labels(endpoint, str(status)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
