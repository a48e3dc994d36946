"""A camera on the network, as it is and as it goes away: from its address to labels."""

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from itertools import islice

import cv2
import numpy as np
import pytest

from app.client import BadSource, Encoding, NetworkCamera, open_source
from app.client import network_camera as module
from app.client.__main__ import main
from tests.app.conftest import ROOT
from tests.app.fake_camera import FakeCamera, mpegts
from tests.assets import number_of, numbered, picture
from tests.servers import needs

PNG = Encoding("png")


@pytest.fixture
def quick(monkeypatch):
    """Tried again at once."""
    monkeypatch.setattr(module, "PAUSES", (0.05, 0.1))


def film(first, end):
    return [picture(number) for number in range(first, end)]


def seen(data):
    return number_of(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))


@pytest.mark.parametrize("kind", ["rtsp", "mpegts", "mpjpeg"])
def test_pictures_come_at_the_time_of_day_and_go_on_after_a_break(kind, quick, caplog):
    """Counted on from where the stream stands. RTSP by one TCP connection, for lost packets tear pictures; what breaks off is said once."""
    began = time.time()
    with FakeCamera(kind, [film(0, 40), film(40, 80)]) as there:
        source = open_source(there.url, PNG)
        assert isinstance(source, NetworkCamera)
        assert source.live
        frames = list(islice(source.frames(1000), 60))
        assert [number for number, *_ in frames] == list(range(1000, 1060))
        times = [seconds for _, seconds, _ in frames]
        assert began < times[0] < times[-1] < time.time()
        assert times == sorted(set(times))
        pictures = [seen(data) for *_, data in frames]
        assert pictures == sorted(set(pictures))
        assert set(range(35)) <= set(pictures)
        assert 40 in pictures
        assert there.served == 2
        assert all("RTP/AVP/TCP" in one for one in there.transports)
        assert bool(there.transports) == (kind == "rtsp")
    assert caplog.records[0].getMessage().startswith(f"camera {there.url} ")
    assert len(caplog.records) == 1


def test_a_camera_that_falls_silent_is_tried_again(quick, monkeypatch, caplog):
    """Its connection stands, and nothing comes."""
    with FakeCamera("rtsp", [film(0, 1), film(0, 30), film(30, 60)], silent=True) as there:
        source = NetworkCamera(there.url, PNG)
        monkeypatch.setattr(module, "_SILENCE", 1.5)
        source._first.close()
        source._first = None
        pictures = [seen(data) for *_, data in islice(source.frames(0), 45)]
    assert pictures == sorted(set(pictures))
    assert pictures[-1] > 35
    assert "gives no more pictures; it is tried again" in caplog.text


def test_sound_without_pictures_is_silence(quick, monkeypatch, caplog):
    """A camera whose video has stopped is tried again, though its sound goes on."""
    heard = mpegts(film(0, 25), 25, sound=60.0), 20.0
    with FakeCamera("mpegts", [heard, film(25, 60)]) as there:
        source = NetworkCamera(there.url, PNG)
        monkeypatch.setattr(module, "_SILENCE", 2.0)
        pictures = [seen(data) for *_, data in islice(source.frames(0), 40)]
        assert there.served == 2
    assert pictures == sorted(set(pictures))
    assert "gives no more pictures; it is tried again" in caplog.text


def test_a_damaged_packet_costs_its_pictures_only(quick, caplog):
    """The connection stays, and what can be decoded again is."""
    whole = bytearray(mpegts(film(0, 100), 25))
    for place in range(0, len(whole), 188):
        if 0.3 < place / len(whole) < 0.4:
            whole[place + 30 : place + 188] = bytes(158)
    with FakeCamera("mpegts", [(bytes(whole), 4.0)]) as there:
        pictures = [seen(data) for *_, data in islice(NetworkCamera(there.url, PNG).frames(0), 80)]
        assert there.served == 1
    assert pictures[0] == 0
    assert pictures[-1] > 79
    assert not caplog.records


def test_who_comes_between_two_key_frames_waits_for_the_next(quick, caplog):
    """With one connection, however far off it is."""
    whole = mpegts(film(0, 200), 25, key=150)
    cut = len(whole) // 20 // 188 * 188
    with FakeCamera("mpegts", [(whole[cut:], 7.6)]) as there:
        pictures = [seen(data) for *_, data in islice(NetworkCamera(there.url, PNG).frames(0), 30)]
        assert there.served == 1
    assert pictures == list(range(150, 180))
    assert not caplog.records


def test_a_camera_that_was_away_is_said_to_be_once_and_waited_for(quick, caplog):
    """However often it is tried."""
    with FakeCamera("mpjpeg", [film(0, 10)]) as there:
        frames = NetworkCamera(there.url, PNG).frames(0)
        assert [number for number, *_ in islice(frames, 10)] == list(range(10))
    back = FakeCamera("mpjpeg", [film(10, 20)], port=there.port)
    later = threading.Timer(1.0, back.__enter__)
    later.start()
    number, _, data = next(frames)
    later.join()
    back.__exit__()
    assert (number, seen(data)) == (10, 10)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(set(said)) == 2
    assert "Connection refused" in said[1]


def test_what_does_not_answer_at_the_beginning_is_an_error():
    """It is misspelt more likely than away."""
    with pytest.raises(BadSource, match=r"camera rtsp://127.0.0.1:1/live cannot be opened: Connection refused"):
        open_source("rtsp://127.0.0.1:1/live")
    with pytest.raises(BadSource, match=r"no tape: give .* or a camera's address"):
        open_source("no tape")


def test_a_password_is_told_the_camera_alone(quick, caplog):
    """Neither an error nor the log has it; written as % and digits it arrives as it is."""
    right = "Basic " + base64.b64encode(b"anna:hidden/7@").decode()
    with FakeCamera("rtsp", [film(0, 10)], password=right) as there:
        with pytest.raises(BadSource, match="401"):
            NetworkCamera(there.url)
        with pytest.raises(BadSource, match="401"):
            NetworkCamera(there.url.replace("//", "//anna:hidden-8@"))
        address = there.url.replace("//", "//anna:hidden%2F7%40@")
        source = NetworkCamera(address, PNG)
        frames = list(islice(source.frames(0), 12))  # more than it gives at once
        assert seen(frames[0][2]) == 0
        assert source.name == there.url
    with pytest.raises(BadSource) as raised:
        NetworkCamera(address)
    assert raised.value.__cause__ is None
    for text in (str(raised.value), caplog.text):
        assert there.url in text
        assert "hidden" not in text
        assert "anna" not in text


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://anna:hid/den@127.0.0.1:1/live", "rtsp://anna:hid#den@127.0.0.1:1/", "rtsp://anna:hid?den@127.0.0.1:1/", "rtsp://anna:h[den@127.0.0.1:1/",
        "rtsp://anna:h\u2100den@127.0.0.1:1/", "rtsp://127.0.0.1:1/user=anna&password=hidden&channel=1", "http://127.0.0.1:1/?usr=x&user=anna&pwd=hidden",
        "rtmp://anna:hidden@127.0.0.1/live", "rtsp:/anna:hidden@127.0.0.1", "rtsp://anna:hid den@127.0.0.1:1/",
    ],
)  # fmt: skip
def test_whatever_an_address_is_like_its_password_is_not_told(address):
    """Of cameras that have it elsewhere, too, and of what is no address at all. The error is one that the command tells in a line."""
    with pytest.raises(BadSource) as raised:
        open_source(address)
    assert not re.search("hid|h\\[den|den@|anna", str(raised.value))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_certificate_is_checked_before_a_password_is_sent(tmp_path, monkeypatch, host):
    """Self-signed, it is taken where it is said to be trusted; one of another host never is."""
    needs("openssl")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=camera",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    with FakeCamera("mpegts", [film(0, 30)], tls=tls) as there:
        address = f"https://anna:hidden@{host}:{there.port}/live.ts"
        with pytest.raises(BadSource, match="cannot be opened"):
            NetworkCamera(address)
        assert there.served == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate"))
        if host == "localhost":
            assert seen(next(iter(NetworkCamera(address, PNG).frames(0)))[2]) == 0
        else:
            with pytest.raises(BadSource, match="cannot be opened"):
                NetworkCamera(address)
            assert there.served == 0


@pytest.mark.parametrize("scheme", ["file://", "", "http"])
def test_a_playlist_is_no_camera(tmp_path, scheme):
    """It would have the client read what it names: this machine's files, or what else its network has."""
    secret = numbered(tmp_path / "secret.ts", frames=20).path
    other = FakeCamera("mpegts", [film(0, 20)])
    entry = other.url if scheme == "http" else f"{scheme}{secret}"
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{entry}\n#EXT-X-ENDLIST\n"
    with (
        other,
        FakeCamera(playlist, []) as there,
        pytest.raises(BadSource, match="none of RTSP, MPEG-TS and multipart motion JPEG"),
    ):
        NetworkCamera(there.url)
    assert other.served == 0


def test_times_are_the_cameras_own_put_on_the_time_of_day(monkeypatch):
    """What comes in bursts keeps its distances; nothing is from the future; a clock that runs slow or is set anew is followed."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "time", lambda: 5000.0)

    def at(seconds, own):
        now[0] = 100.0 + seconds
        found = clock.of(own)
        return None if found is None else found - 5000.0

    clock = module._Clock()
    now[0] -= 0.5
    clock.begins()
    # Half a second until it can be read: then all at once, each from its time.
    assert [at(0.001 * k, 6.5 + 0.04 * k) for k in range(12)] == pytest.approx(
        [-0.5 + 0.04 * k for k in range(12)], abs=0.01
    )
    clock.begins()
    assert at(0.02, 7.0) == pytest.approx(0.011)
    assert at(0.06, 7.04) == pytest.approx(0.051, abs=1e-3)
    # A second's delay, and then all at once.
    late = [at(1.0 + 0.001 * k, 7.08 + 0.04 * k) for k in range(20)]
    assert np.diff(late) == pytest.approx(0.04, abs=0.002)
    assert late[0] == pytest.approx(0.091, abs=2e-3)
    # Ahead: not before it came, and later than the one before.
    assert at(1.1, 20.0) == pytest.approx(1.1)
    assert at(1.14, 20.04) == pytest.approx(1.14)
    # Said again.
    assert at(1.15, 20.04) is None
    # Its clock is set back by an hour.
    assert at(1.2, -3600.0) == pytest.approx(1.2)
    # It runs a thousandth slow: after an hour it is not 3.6 s behind.
    for k in range(1, 25 * 3600):
        found = at(1.2 + 0.04 * k, -3600.0 + 0.04 * k * 0.999)
    assert found == pytest.approx(now[0] - 100.0, abs=0.1)
    # Without times of its own.
    assert at(4000.0, None) == 4000.0
    now[0] = 100.0 + 4001.0
    clock.begins()
    assert at(4001.5, 0.0) == 4001.0


def test_by_its_address_it_is_labelled(service):
    """The command with a real service; live, so that a slow network makes no backlog. Its address is in no list of processes."""
    with FakeCamera("rtsp", [film(0, 250)]) as there:
        command = [
            sys.executable,
            "-m",
            "app.client",
            "-",
            "--stream",
            "hall-camera",
            "--server",
            service.url,
            "--json",
        ]
        environment = {**os.environ, "CRT_CAMERA": there.url}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        finals = []
        for line in process.stdout:
            message = json.loads(line)
            if message["type"] == "ready":
                assert message["options"]["policy"] == "live"
            if message["type"] == "segment" and message["final"]:
                finals.append(message)
                if len(finals) == 2:
                    break
        process.send_signal(signal.SIGINT)
        assert "the same command goes on from there" in process.communicate(timeout=20)[1]
    assert finals[1]["start"] == pytest.approx(finals[0]["end"], abs=0.2)
    assert abs(finals[0]["start"] - time.time()) < 120


def test_what_the_command_is_given_in_place_of_an_address(monkeypatch, capsys):
    """Nothing is no folder; and who leaves while a camera is still being asked is told no more than that."""
    monkeypatch.delenv("CRT_CAMERA", raising=False)
    monkeypatch.setattr(sys, "argv", ["client", "-", "--stream", "x"])
    assert main() == 1
    assert capsys.readouterr().err == "source_bad: $CRT_CAMERA has no camera's address (rtsp://, http://)\n"

    def asked(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.client.__main__.open_source", asked)
    assert main() == 130
    assert capsys.readouterr().err == ""
