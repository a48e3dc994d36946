"""Triton and LitServe in an environment of their own: `python -m benchmarks.peers.install`; and how they are started.

Triton comes without Docker, from the package nvidia-pytriton, which holds the server. Both find torch, numpy and the project in the
environment that runs the benchmark.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.harness import FOLDER

ENVIRONMENT = FOLDER.parent / "runs" / "serving-peers" / "venv"
PACKAGES = ("nvidia-pytriton==0.7.0", "litserve==0.2.19", "numpy==1.26.4")
"""With NumPy 2, arrays that Triton's python backend gives back are empty (triton-inference-server/server, issue 8019)."""
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_SITE = ENVIRONMENT / "lib" / f"python{_PYTHON}" / "site-packages"
_CONFIG = """
name: "crt"
backend: "python"
max_batch_size: {most}
input [ {{ name: "features" data_type: TYPE_FP32 dims: [ 16, 512 ] }} ]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ 31 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
parameters {{ key: "model" value: {{ string_value: "{model}" }} }}
sequence_batching {{
  max_sequence_idle_microseconds: 600000000
  oldest {{ max_candidate_sequences: 4096 }}
  control_input [
    {{ name: "START" control [ {{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} ] }}
  ]
}}
"""


def install() -> None:
    """Makes the environment anew."""
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    pip: list[str | Path] = [ENVIRONMENT / "bin" / "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", PACKAGES[0]], check=True)
    subprocess.run([*pip, *PACKAGES[1:]], check=True)
    server = _SITE / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    shutil.copy2(stub, server / "backends" / "python" / stub.name)


def _environment() -> dict[str, str]:
    """One thread for the networks; the server's own python finds what this one has."""
    paths = [str(FOLDER.parent), str(_SITE), sysconfig.get_path("purelib")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths), "PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip


@contextmanager
def triton(model: Path, folder: Path, runtime: str, most: int) -> Iterator[tuple[int, psutil.Process]]:
    """Triton's HTTP port and process; its sequence batcher with our step by `runtime` in the python backend."""
    version = folder / "crt" / "1"
    version.mkdir(parents=True)
    shutil.copy2(FOLDER / "peers" / "triton_model.py", version / "model.py")
    (folder / "crt" / "config.pbtxt").write_text(_CONFIG.format(most=most, model=model))
    server, port = _SITE / "pytriton" / "tritonserver", _free_port()
    command: list[str | Path] = [
        server / "bin" / "tritonserver", f"--model-repository={folder}", f"--backend-directory={server / 'backends'}",
        "--http-address=127.0.0.1", f"--http-port={port}", "--allow-gpu-metrics=false", "--allow-grpc=false", "--allow-metrics=false",
        "--log-info=false",
    ]  # fmt: skip
    with _started(
        command, _environment() | {"PEER_RUNTIME": runtime}, f"http://127.0.0.1:{port}/v2/health/ready"
    ) as server:
        yield port, server


@contextmanager
def litserve(model: Path, runtime: str, most: int) -> Iterator[tuple[int, psutil.Process]]:
    """LitServe's port and process."""
    port = _free_port()
    command: list[str | Path] = [
        ENVIRONMENT / "bin" / "python", FOLDER / "peers" / "litserve_server.py", model, str(port), runtime, str(most),
    ]  # fmt: skip
    environment = _environment()
    del environment["PYTHONHOME"]
    with _started(command, environment, f"http://127.0.0.1:{port}/health") as server:
        yield port, server


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _started(command: list[str | Path], environment: dict[str, str], ready: str) -> Iterator[psutil.Process]:
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=FOLDER.parent) as process:
        try:
            until = time.monotonic() + 120
            while True:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{command[0]} did not start; its error output says why")
                try:
                    if httpx.get(ready).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()  # there is nothing to lose, and LitServe's workers stay otherwise


if __name__ == "__main__":
    install()
