"""A client of streams: sends frames, hands out labels, and comes back by itself after any break. Needs no torch."""

from app.client.client import Lost, Refused, StreamClient
from app.client.sources import BadSource, Camera, Folder, Source, VideoFile, open_source

__all__ = ["BadSource", "Camera", "Folder", "Lost", "Refused", "Source", "StreamClient", "VideoFile", "open_source"]
