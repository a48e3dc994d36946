"""A real service in a process of its own, with a small model of random weights, and a client to it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from models import checkpoint
from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier
from models.small import SPEC, SmallBackbone
from pipelines import graphs

ROOT = Path(__file__).parents[2]
LABELS = ("Background", "Drink.Fromcup", "Fall", "Sitdown", "Walk")


@dataclass(frozen=True)
class Service:
    """A running service."""

    url: str
    process: psutil.Process
    log: Path
    spool: Path
    child: subprocess.Popen[bytes]


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def launch(model: Path, folder: Path, port: int, **settings: str) -> Service:
    """Starts `python -m app` with CRT_* settings; returns when it is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    spool = folder / "spool"
    spool.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRT_")}
    environment |= {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "CRT_MODEL": str(model),
        "CRT_SPOOL": str(spool),
        "CRT_SESSIONS": f"sqlite:///{folder / 'sessions.db'}",
        # A slow machine takes as many streams as a test has; test_capacity.py sets it.
        "CRT_STREAMS_SHARE": "0",
        **settings,
    }
    log = folder / "service.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError(f"the service ended at once:\n{log.read_text()}")
            try:
                if client.get("/readyz").status_code == 200:
                    return Service(f"http://127.0.0.1:{port}", psutil.Process(process.pid), log, spool, process)
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"the service did not get ready:\n{log.read_text()}")


@contextmanager
def running(model: Path, folder: Path, **settings: str) -> Iterator[Service]:
    """A service on a free port, for a while."""
    service = launch(model, folder, free_port(), **settings)
    try:
        yield service
    finally:
        service.child.terminate()
        service.child.wait(20)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights: what is tested here is the way, not the knowledge."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    config = ClassifierConfig(
        feature_width=SPEC.feature_width,
        classes=len(LABELS),
        crt=CrtConfig(width=32, memory=64, layers=1, heads=2, hidden=64),
    )
    classifier = VideoClassifier(config)
    # Random weights say nearly the same of everything; larger ones tell pictures apart.
    torch.nn.init.normal_(classifier.classify.weight, std=2.0)
    backbone, classifier = SmallBackbone().eval(), classifier.eval()
    checkpoint.save(
        folder, backbone, classifier, name="random", labels=LABELS, background="Background", card={"data": "none"},
        # With its graphs, as a training writes it: without them each start would need torch to make them.
        graphs={**graphs.of_backbone(backbone), "classify": graphs.classify(classifier)},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def service(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(model, tmp_path_factory.mktemp("service"), CRT_THREADS="1") as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client
