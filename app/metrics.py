"""What the service counts and measures, for Prometheus: GET /metrics.

Counted where it happens, by whoever does it. Times are seconds of wall clock. A latency is what the service can know of it: from
the arrival of the last frame that a label covers to the moment before the label is sent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, thread_time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from app.problems import STATUS

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REFUSALS = (
    "busy", "model_changed", "service_moves", "session_expired", "session_unknown", "store_unavailable", "stream_owned", "unauthorized",
)  # fmt: skip
"""Why a writer may not be given a stream."""
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One service's; each has its own registry."""

    def __init__(self) -> None:
        disable_created_metrics()  # when each counter was made is of no use to anybody
        self.registry = r = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=r)
        self.live_streams = Gauge("crt_live_streams", "Streams that are written to.", registry=r)
        self.capacity = Gauge("crt_live_streams_most", "Streams that could be, by what clips cost.", registry=r)
        self.sessions = Gauge("crt_sessions", "Sessions in the store that have not expired.", registry=r)
        self.store_bytes = Gauge("crt_store_bytes", "Bytes that the store of sessions takes.", registry=r)
        self.state_bytes = Histogram(
            "crt_state_bytes", "Size of a stream's state at each commit.", registry=r,
            buckets=(1024, 2048, 3072, 4096, 6144, 8192, 16384),
        )  # fmt: skip
        self.admitted = Counter("crt_streams_admitted_total", "Writers that were given a stream.", registry=r)
        self.resumed = Counter("crt_streams_resumed_total", "Of these, those that went on with one.", registry=r)
        self.refused = Counter("crt_streams_refused_total", "Writers that were not given one.", ["code"], registry=r)
        self.expired = Counter("crt_streams_expired_total", "Sessions that expired and were cleared away.", registry=r)
        self.received = Counter("crt_frames_received_total", "Frames that came over WebSocket.", registry=r)
        self.sampled = Counter("crt_frames_sampled_total", "Frames that the sampler took.", registry=r)
        self.dropped = Counter("crt_frames_dropped_total", "Frames that no label covers.", ["reason"], registry=r)
        self.videos = Counter("crt_videos_total", "Videos and pieces of video that were labelled.", registry=r)
        self.batch = Histogram(
            "crt_batch_size", "Clips (backbone) or segments (crt) in a batch.", ["stage"], buckets=SIZES, registry=r
        )
        self.queue = Histogram("crt_queue_seconds", "Waiting for a batch.", ["stage"], buckets=SECONDS, registry=r)
        self.compute = Histogram(
            "crt_compute_seconds", "Work on a frame (decode), a batch (backbone, crt) or a commit (store).", ["stage"],
            buckets=SECONDS, registry=r,
        )  # fmt: skip
        self.cpu = Counter("crt_cpu_seconds_total", "Processor time of that work.", ["stage"], registry=r)
        self.latency = Histogram(
            "crt_label_latency_seconds", "From the arrival of the last frame that a label covers to the label.", ["kind"],
            buckets=SECONDS, registry=r,
        )  # fmt: skip
        self.commits = Counter("crt_commits_total", "States made durable.", registry=r)
        self.conflicts = Counter(
            "crt_commit_conflicts_total", "Commits that were refused: the stream is another's.", registry=r
        )
        self.errors = Counter("crt_errors_total", "Errors told to clients, by code.", ["code"], registry=r)
        # Rates of what has not happened yet are 0, not missing: of a counter that begins with its first error, no rate ever shows it.
        for code in STATUS:
            self.errors.labels(code)
        for code in REFUSALS:
            self.refused.labels(code)
        for reason in ("live", "gap", "late", "undecodable"):
            self.dropped.labels(reason)
        for stage in ("backbone", "crt"):
            self.batch.labels(stage)
            self.queue.labels(stage)
        for stage in ("decode", "backbone", "crt"):
            self.cpu.labels(stage)
        for stage in ("decode", "backbone", "crt", "store"):
            self.compute.labels(stage)
        for kind in ("provisional", "final"):
            self.latency.labels(kind)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)

    def spent(self) -> tuple[float, float]:
        """Seconds of processor time on live streams so far, and their clips."""

        def total(metric: Counter | Histogram, name: str, **labels: str) -> float:
            samples = [sample for family in metric.collect() for sample in family.samples]
            return sum(s.value for s in samples if s.name.endswith(name) and labels.items() <= s.labels.items())

        return total(self.cpu, "_total"), total(self.batch, "_sum", stage="backbone")

    @contextmanager
    def working(self, stage: str) -> Iterator[None]:
        """Measures a stage's work, whether it succeeds or not, in the thread that does it."""
        started = thread_time()
        try:
            with self.waiting(stage):
                yield
        finally:
            self.cpu.labels(stage).inc(thread_time() - started)

    def worked(self, stage: str, spent: float, took: float) -> None:
        """A stage's work that another process has done and measured: seconds of processor time and of wall clock."""
        self.cpu.labels(stage).inc(spent)
        self.compute.labels(stage).observe(took)

    @contextmanager
    def waiting(self, stage: str) -> Iterator[None]:
        """The same for work that is done elsewhere."""
        started = perf_counter()
        try:
            yield
        finally:
            self.compute.labels(stage).observe(perf_counter() - started)
