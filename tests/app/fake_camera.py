"""A camera on the network: H.264 in MPEG-TS by RTSP or HTTP, or motion JPEG by HTTP, as fast as it is filmed. It hangs up after each film."""

import contextlib
import io
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Self

import av
import cv2
import numpy as np

from tests.app.conftest import free_port

PACKETS = 7 * 188
"""Bytes of MPEG-TS in an RTP packet."""


def mpegts(pictures: Sequence[np.ndarray], fps: int, *, key: int = 5, sound: float = 0.0) -> bytes:
    """uint8[H, W, 3] each, RGB. key: pictures from one key frame to the next. sound: seconds of it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as file:
        options = {"crf": "10", "bf": "0", "g": str(key), "tune": "zerolatency", "sc_threshold": "0"}
        stream = file.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        heard = file.add_stream("mp2", rate=48_000) if sound else None
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
        for k in range(int(sound * 48_000 / 1152)):
            quiet = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1152), np.int16), format="s16", layout="stereo")
            quiet.sample_rate, quiet.pts = 48_000, 1152 * k
            file.mux(heard.encode(quiet))
    return buffer.getvalue()


class FakeCamera:
    """A context manager. Each connection is given the next film, the last one again and again."""

    def __init__(
        self,
        kind: str,
        films: Sequence[Sequence[np.ndarray] | tuple[bytes, float]],
        *,
        fps: int = 25,
        password: str = "",
        silent: bool = False,
        port: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """films: pictures, or MPEG-TS as it is and the seconds that it takes. kind: rtsp, mpegts, mpjpeg, or any other text, which is what
        it answers by HTTP. password: the Authorization that RTSP wants. silent: it neither goes on nor hangs up after a film.
        """
        self.kind, self.films, self.fps, self.password, self.silent = kind, films, fps, password, silent
        self.served, self.transports, self.over = 0, list[str](), threading.Event()
        camera = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):  # who looked has gone
                    (camera.rtsp if kind == "rtsp" else camera.http)(self.rfile, self.wfile)

        self.handler, self.port, self.tls = Handler, port or free_port(), tls
        suffix = {"rtsp": "", "mpegts": ".ts", "mpjpeg": ".mjpg"}.get(kind, ".m3u8")
        self.url = f"{'rtsp' if kind == 'rtsp' else 'http'}://127.0.0.1:{self.port}/live{suffix}"

    def __enter__(self) -> Self:
        socketserver.ThreadingTCPServer.allow_reuse_address = True
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), self.handler)
        self.server.daemon_threads = True
        if self.tls is not None:
            self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def film(self) -> Sequence[np.ndarray] | tuple[bytes, float]:
        self.served += 1
        return self.films[min(self.served, len(self.films)) - 1]

    def paced(self) -> Iterator[bytes]:
        """A film's packets, each in its time."""
        film = self.film()
        data, seconds = film if isinstance(film, tuple) else (mpegts(film, self.fps), len(film) / self.fps)
        began = time.monotonic()
        for at in range(0, len(data), PACKETS):
            due = began + seconds * at / len(data)
            if self.over.wait(max(0.0, due - time.monotonic())):
                return
            yield data[at : at + PACKETS]
        if self.silent:
            self.over.wait(60)

    def head(self, rfile: io.BufferedIOBase) -> tuple[str, dict[str, str]]:
        lines = []
        while (line := rfile.readline().decode().strip()) or not lines:
            if not line and not lines:
                raise OSError("hung up")
            lines.append(line)
        return lines[0].split(" ")[0], dict(line.split(": ", 1) for line in lines[1:] if ": " in line)

    def rtsp(self, rfile: io.BufferedIOBase, wfile: io.BufferedIOBase) -> None:
        """RFC 2326, as much as a client asks for; interleaved with its own connection."""
        while True:
            method, fields = self.head(rfile)
            answer, body = [f"CSeq: {fields['CSeq']}"], ""
            if self.password and fields.get("Authorization") != self.password:
                wfile.write(
                    "\r\n".join(
                        ["RTSP/1.0 401 Unauthorized", *answer, 'WWW-Authenticate: Basic realm="c"', "", ""]
                    ).encode()
                )
                continue
            if method == "DESCRIBE":
                body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=\xb4\xab\xc3\xc5\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
                answer += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            elif method == "SETUP":
                self.transports.append(fields["Transport"])
                answer += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
            elif method == "OPTIONS":
                answer.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            else:
                answer.append("Session: 1")
            wfile.write(("\r\n".join(["RTSP/1.0 200 OK", *answer, "", ""]) + body).encode("latin-1"))
            if method == "PLAY":
                for number, packets in enumerate(self.paced()):
                    rtp = (
                        struct.pack("!BBHII", 0x80, 33, number & 0xFFFF, int(time.monotonic() * 90_000) & 0xFFFFFFFF, 1)
                        + packets
                    )
                    wfile.write(struct.pack("!cBH", b"$", 0, len(rtp)) + rtp)
                return

    def http(self, rfile: io.BufferedIOBase, wfile: io.BufferedIOBase) -> None:
        self.head(rfile)
        kinds = {"mpegts": "video/mp2t", "mpjpeg": "multipart/x-mixed-replace;boundary=frame"}
        wfile.write(
            f"HTTP/1.0 200 OK\r\nContent-Type: {kinds.get(self.kind, 'application/x-mpegurl')}\r\n\r\n".encode()
        )
        if self.kind == "mpegts":
            for packets in self.paced():
                wfile.write(packets)
        elif self.kind == "mpjpeg":
            began = time.monotonic()
            for number, picture in enumerate(self.film()):
                if self.over.wait(max(0.0, began + number / self.fps - time.monotonic())):
                    return
                data = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
                wfile.write(
                    b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n"
                )
        else:
            wfile.write(self.kind.encode())
