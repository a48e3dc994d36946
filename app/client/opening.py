"""What a command's SOURCE means."""

import os
import re
from pathlib import Path

from app.client.errors import BadSource
from app.client.network_camera import ADDRESS, NetworkCamera, shown
from app.client.sources import Camera, Encoding, Folder, Source, VideoFile


def open_source(name: str, encoding: Encoding | None = None, *, fps: float | None = None) -> Source:
    """A folder or a file, a webcam for a number, or a camera on the network for an address, which for - is that in $CRT_CAMERA. fps is of
    a folder's pictures or asked of a webcam. Raises BadSource.
    """
    if name == "-":
        name = os.environ.get("CRT_CAMERA", "").strip()
        if not ADDRESS.fullmatch(name):
            raise BadSource("$CRT_CAMERA has no camera's address (rtsp://, http://)")
    if ADDRESS.fullmatch(name):
        return NetworkCamera(name, encoding)
    path = Path(name)
    if path.is_dir():
        return Folder(path, encoding, fps=fps or 25.0)
    if path.exists():
        return VideoFile(path, encoding)
    if re.fullmatch(r"[0-9]{1,4}", name):
        return Camera(int(name), encoding, fps=fps)
    raise BadSource(
        f"there is no {shown(name)}: give a video file, a folder of pictures, a webcam's number, or a camera's address (rtsp://, http://)"
    )
