"""A client of streams: sends frames, hands out labels, and comes back by itself after any break. Needs no torch.

async with StreamClient("http://127.0.0.1:8000", "kitchen", top_k=3) as client:
    async for message in client.messages(VideoFile(Path("kitchen.mp4"))):
        print(message)
"""

from app.client.client import StreamClient
from app.client.errors import (
    BadAddress,
    BadSource,
    ClientError,
    FrameTooLarge,
    Lost,
    ModelChanged,
    Refused,
    RequestRefused,
    StreamExpired,
    StreamOwned,
    StreamUnknown,
    Unreachable,
)
from app.client.network_camera import NetworkCamera
from app.client.opening import open_source
from app.client.sources import Camera, Encoding, Folder, Source, VideoFile

__all__ = [
    "BadAddress", "BadSource", "Camera", "ClientError", "Encoding", "Folder", "FrameTooLarge", "Lost", "ModelChanged",
    "NetworkCamera", "Refused", "RequestRefused", "Source", "StreamClient", "StreamExpired", "StreamOwned", "StreamUnknown", "Unreachable",
    "VideoFile", "open_source",
]  # fmt: skip
