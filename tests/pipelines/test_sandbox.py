"""What a confined process can still do. Each attempt runs in a process of its own, as a worker would be."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import sandbox

linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="the filters are Linux's"
)

SCRIPT = """
import json, os, signal, socket, sys, threading, ctypes, mmap
from pipelines import sandbox
video = os.open(sys.argv[1], os.O_RDONLY)
missing = sandbox.confine(video, memory=64 << 20, cpu_seconds=20)
def attempt():
    {code}
try:
    result = attempt()
except BaseException as error:
    result = type(error).__name__
os.write(1, json.dumps([missing, result]).encode())
os._exit(0)
"""


def attempt(code: str, video: Path, script: str = SCRIPT) -> tuple[list[str], object]:
    script = script.replace("{code}", code.replace("\n", "\n    "))
    run = subprocess.run(
        [sys.executable, "-c", script, str(video)], capture_output=True, cwd=Path(__file__).parents[2], timeout=60
    )
    assert run.stdout, (run.returncode, run.stderr)
    missing, result = json.loads(run.stdout)
    return missing, result


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "kitchen.mp4"
    path.write_bytes(b"pictures")
    return path


@linux
@pytest.mark.parametrize(
    "code",
    [
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
        "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)",
        "socket.socketpair()",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), signal.SIGTERM)",
        "os.sched_setaffinity(os.getppid(), {0})",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "open(sys.argv[1], 'wb')",
        "open(sys.argv[1] + '.new', 'wb')",
        "os.unlink(sys.argv[1])",
        "os.rename(sys.argv[1], sys.argv[1] + '.new')",
        "os.mkdir(sys.argv[1] + '.d')",
        "os.memfd_create('x')",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    ],
)
def test_a_confined_process_reaches_nothing(code, video):
    """No sockets, programs, processes, signals, files to write, or memory to run code in."""
    _, result = attempt(code, video)

    assert result == "PermissionError"
    assert video.read_bytes() == b"pictures"
    assert list(video.parent.iterdir()) == [video]


@linux
def test_a_confined_process_reads_its_video_and_has_threads(video):
    """All that decoding needs."""
    code = """
seen = []
thread = threading.Thread(target=lambda: seen.append(open(f'/proc/self/fd/{video}', 'rb').read().decode()))
thread.start()
thread.join()
return seen
"""
    assert attempt(code, video)[1] == ["pictures"]


@linux
@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "{video}.other"])
def test_no_other_file_can_be_read(path, video):
    """Where the kernel has Landlock; where not, confine() says so."""
    Path(f"{video}.other").write_text("secret")
    missing, result = attempt(f"open({path.format(video=video)!r}).read()", video)

    if any("Landlock" in reason for reason in missing):
        pytest.skip(missing[0])
    assert result == "PermissionError"


@linux
def test_who_decodes_live_video_can_read_no_file_and_has_no_limit_of_processor_time(video):
    """Its bytes come through a descriptor that is open; time adds up over days."""
    confined = SCRIPT.replace(
        "confine(video, memory=64 << 20, cpu_seconds=20)", "confine(None, memory=64 << 20, cpu_seconds=None)"
    )
    code = """
import resource
assert resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY
assert os.read(video, 8) == b'pictures'
open(sys.argv[1])
"""
    missing, result = attempt(code, video, confined)

    if any("Landlock" in reason for reason in missing):
        pytest.skip(missing[0])
    assert result == "PermissionError"


@linux
def test_memory_is_limited(video):
    assert attempt("bytearray(32 << 20); return 'granted'", video)[1] == "granted"
    assert attempt("bytearray(128 << 20)", video)[1] == "MemoryError"


@linux
def test_a_process_that_confined_itself_can_still_abort(video):
    """Decoders call abort(); it must not become an endless loop."""
    script = SCRIPT.replace("{code}", "os.abort()")
    run = subprocess.run([sys.executable, "-c", script, str(video)], cwd=Path(__file__).parents[2], timeout=60)
    assert run.returncode == -6


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_a_sound_program(machine):
    """Each jump stays inside, each path ends in a verdict, and system calls have a number each."""
    arch, allowed, checked = sandbox._MACHINES[machine]
    code = sandbox._filter(arch, allowed, checked, pid=1)
    steps = [code[at : at + 8] for at in range(0, len(code), 8)]

    assert len(code) % 8 == 0
    assert len(steps) < 4096
    assert steps[-1] == sandbox._step(sandbox._RETURN, sandbox._ERRNO | 1)
    for index, step in enumerate(steps):
        assert index + 1 + max(step[2], step[3]) <= len(steps)
    numbers = [*allowed.values(), *checked.values()]
    assert len(numbers) == len(set(numbers))
