"""Tries the Ray side for real: a cluster of two nodes on this machine, a gateway, cameras, and a node that is killed in mid-stream.

    python docker/ray/verify.py [--cameras 8] [--frames 1500]

Run by a Python with requirements-ray.txt. Puts itself into a network namespace of its own, where there is nothing but this: two nodes' addresses,
and one more on which none of Ray's ports may answer. Prints what the hop costs a clip, and how many clips one and two replicas see a
second. Then both nodes label a folder of videos, and the second is killed once more.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD, WORKER, OTHER = "10.99.0.1", "10.99.0.2", "10.98.0.1"
CLUSTER = f"{HEAD}:6379"
BATCHES = (1, 8, 32)


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN:4.0f} s] {text}", flush=True)


def node(kind: str, folder: Path, *, ports: int, **more: str) -> subprocess.Popen[bytes]:
    """A node, in a process group of its own."""
    addresses = [HEAD] if kind == "head" else [CLUSTER, WORKER]
    options = ["--num-cpus=1", "--object-store-memory=300000000"] + (
        ["--temp-dir", str(folder / "ray")] if kind == "head" else []
    )
    environment = os.environ | {"PORTS": str(ports), "RAY": str(Path(sys.executable).parent / "ray"), **more}
    return subprocess.Popen(
        [ROOT / "docker/ray/node.sh", kind, *addresses, *options], env=environment, stdout=(folder / f"{ports}.log").open("wb"),
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def wait_for(what: str, test: Callable[[], object], seconds: float = 90.0) -> float:
    """Until test() holds; how long that took."""
    began = time.monotonic()
    while not test():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not after {seconds:g} s")
        time.sleep(0.2)
    return time.monotonic() - began


def answers(address: str, port: int) -> bool:
    with socket.socket() as there:
        there.settimeout(0.2)
        return there.connect_ex((address, port)) == 0


def listening() -> set[int]:
    """Ports of this namespace."""
    lines = [line for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.split()[3] == "0A"}


def end_all(ports: int) -> int:
    """Kills whatever a node has started, all of which has its environment; how many that were."""
    mine = [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if f"PORTS={ports}\0".encode() in _environment(process)
    ]
    for number in mine:
        os.kill(number, signal.SIGKILL)
    return len(mine)


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # it has ended
        return b""


def figures() -> None:
    """What the hop costs, and what replicas bring."""
    import numpy as np

    from models import checkpoint
    from pipelines.label import BUNDLED
    from pipelines.ray_side import RayRecognizer, deploy
    from pipelines.recognizer import Recognizer

    model = checkpoint.read(str(BUNDLED))
    here, there = Recognizer(model, threads=1), RayRecognizer(model, CLUSTER, patience=60)
    spec = here.spec
    clips = np.random.default_rng(0).integers(0, 256, (32, spec.frames, spec.height, spec.width, 3), dtype=np.uint8)
    assert np.array_equal(here.features(clips[:4]), there.features(clips[:4])), "other features than in process"

    def timed(work: Callable[..., object], turns: int, *arguments: object) -> float:
        times = []
        for _ in range(turns):
            began = time.perf_counter()
            work(*arguments)
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    for batch in BATCHES:
        some = clips[:batch]
        own, far = timed(here.features, 15, some), timed(there.features, 15, some)
        own, far = own / batch * 1e3, far / batch * 1e3
        say(
            f"batch of {batch:2}: {own:.2f} ms a clip in process, {far:.2f} ms on the cluster; the hop {far - own:.2f} ms"
        )
    from concurrent.futures import ThreadPoolExecutor

    for replicas in (1, 2):
        deploy(str(BUNDLED), least=replicas, most=replicas)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: there.features(clips[:8]), range(8)))
            began, turns = time.perf_counter(), 60
            list(threads.map(lambda _: there.features(clips[:8]), range(turns)))
            took = time.perf_counter() - began
        say(
            f"{replicas} replica{'s' if replicas > 1 else ''}: {turns * 8 / took:.0f} clips/s, batches of 8 from 8 threads"
        )


def archive(folder: Path, copies: int) -> bool:
    """Labels videos by both nodes, one of which is killed, and in process; whether the tables are the same."""
    import pyarrow.parquet as pq

    videos = folder / "videos"
    videos.mkdir()
    (videos / "broken.mp4").write_bytes(b"not a video")
    for number in range(copies):
        shutil.copy(ROOT / "examples/kitchen.mp4", videos / f"{number:03}.mp4")
    command: list[str | Path] = [sys.executable, "-m", "pipelines.label", videos, "--out"]
    subprocess.run([*command, folder / "here.parquet", "--threads", "2"], cwd=ROOT, check=True)
    say(f"{copies} videos and a broken one labelled in process; now by the cluster:")
    there, journal = folder / "there.parquet", folder / "there.parquet.journal"
    asked = subprocess.Popen([*command, there, "--ray", CLUSTER], cwd=ROOT)
    wait_for("first labels", lambda: journal.exists() and journal.read_bytes().count(b"\n") > 2)
    say(f"kill -9 of the second node, {end_all(6600)} processes at once")
    if asked.wait():
        return False
    same = pq.read_table(there).equals(pq.read_table(folder / "here.parquet"))
    say(f"the table of the cluster is {'' if same else 'NOT '}that of the labels in process")
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--videos", type=int, default=16, help="of the archive (default: 16)")
    parser.add_argument("--quick", action="store_true", help="leave out what is only measured")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.inside:
        # As a user of a namespace of one's own this needs no rights; what is started there ends with it.
        inside = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return subprocess.call(
            [*inside, sys.executable, __file__, "--inside", *sys.argv[1:]], env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
    for command in (
        ["link", "set", "lo", "up"],
        *(["addr", "add", f"{one}/24", "dev", "lo"] for one in (HEAD, WORKER, OTHER)),
    ):
        subprocess.run(["ip", *command], check=True)
    folder = Path(tempfile.mkdtemp(prefix="crt-"))
    os.environ |= {"HOME": str(folder), "CRT_STREAMS_SHARE": "0"}
    try:
        return tried(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tried(args: argparse.Namespace, folder: Path) -> int:
    first = node("head", folder, ports=6379)
    wait_for("the head", lambda: answers(HEAD, 6379))
    second = node("worker", folder, ports=6500)
    import ray

    from pipelines import ray_side

    ray_side.join(CLUSTER)
    wait_for("two nodes", lambda: sum(one["Alive"] for one in ray.nodes()) == 2)
    say(f"two nodes on {HEAD} and {WORKER}")
    ray_side.deploy(str(ray_side.BUNDLED), least=2, most=2)
    say("two replicas")
    own = listening()
    open_elsewhere = sorted(port for port in own if answers(OTHER, port))
    say(f"{len(own)} ports; reached by an address that was not configured: {open_elsewhere or 'none'}")
    if open_elsewhere:
        subprocess.run(["ss", "-ltnp"])
        return 1

    def gateway(port: int, **settings: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "HOST": HEAD, "PORT": str(port), "CRT_SESSIONS": f"sqlite:///{folder}/{port}.db", "CRT_SPOOL": str(folder), **settings
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "app"],
            cwd=ROOT,
            env=environment,
            stdout=(folder / f"{port}.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for("a gateway", lambda: answers(HEAD, port) or process.poll() is not None)
            assert process.poll() is None
        except (AssertionError, TimeoutError):
            print((folder / f"{port}.log").read_text()[-3000:])
            raise
        return process

    def cameras(port: int, out: str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "docker/verify/streams.py"), f"http://{HEAD}:{port}", str(folder / out)]
        return subprocess.Popen(
            [*command, "--frames", str(args.frames), "--cameras", str(args.cameras), *more], cwd=ROOT
        )

    plain = gateway(8001)
    say(f"{args.cameras} cameras at a service with its networks in process, undisturbed:")
    if cameras(8001, "reference.json").wait():
        return 1
    plain.terminate()
    plain.wait()
    far = gateway(8002, CRT_ENGINE=f"ray:{CLUSTER}")
    say("the same, live, at a gateway with its networks on the cluster:")
    live = cameras(8002, "live.json", "--live", "--same-as", str(folder / "reference.json"))
    time.sleep(args.frames / 25 / 4)
    killed = end_all(6500)
    say(f"kill -9 of the second node, {killed} processes at once")
    time.sleep(args.frames / 25 / 4)
    second = node("worker", folder, ports=6600)
    say("a new node joins")
    if live.wait():
        print((folder / "8002.log").read_text()[-3000:])
        return 1
    asked = [line for line in (folder / "8002.log").read_text().splitlines() if "is asked again" in line]
    say(f"calls that were asked again: {len(asked)}")
    far.terminate()
    far.wait()
    if not args.quick:
        figures()
    ray.serve.shutdown()  # whose replicas had the cores
    if not archive(folder, args.videos):
        return 1
    ray.shutdown()  # which tells of the killed node on this output, whenever it learns of it
    for one in (second, first):
        one.terminate()
        one.wait()
    say("all as promised")
    return 0


BEGAN = time.monotonic()
if __name__ == "__main__":
    sys.exit(main())
