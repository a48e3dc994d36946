"""Frames in memory that processes share: one writes a picture's pixels, another reads them, and nothing is copied.

Shapes: P places, H x W pixels.
"""

import gc
import mmap
import os
import tempfile

import numpy as np

from pipelines.frames import Pixels


class Places:
    """P frames of one size, as the process sees them that was handed the memory."""

    def __init__(self, fd: int, count: int, height: int, width: int) -> None:
        """fd: a file of count x height x width x 3 bytes, in memory. It may be closed afterwards."""
        self._memory = mmap.mmap(fd, count * height * width * 3)
        self._pixels_PHW3 = np.frombuffer(self._memory, np.uint8).reshape(count, height, width, 3)

    def __len__(self) -> int:
        return len(self._pixels_PHW3)

    def pixels(self, place: int) -> Pixels:
        """A place's uint8[H, W, 3]; nothing keeps others from using it, too."""
        return self._pixels_PHW3[place]


class OwnPlaces(Places):
    """The same, of the process that made it and that says who may use which place."""

    def __init__(self, count: int, height: int, width: int) -> None:
        """Of its memory only what has been used is taken."""
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("frames")
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        os.ftruncate(self.fd, count * height * width * 3)
        super().__init__(self.fd, count, height, width)
        self._free = list(range(count - 1, -1, -1))

    def take(self) -> Pixels:
        """A free place's uint8[H, W, 3]; it is free again when neither the array nor any view of it is left.

        Raises RuntimeError when there is none.
        """
        if not self._free:
            gc.collect()  # arrays in a cycle of references are left, too
        if not self._free:
            raise RuntimeError(f"all {len(self._pixels_PHW3)} places for frames are taken")
        # What was used last is still in the processor's caches.
        return np.asarray(_Taken(self, self._free.pop()))

    def place(self, pixels: Pixels) -> int | None:
        """Which place an array that take() gave is; None for another one."""
        owner = pixels.base
        return owner.place if isinstance(owner, _Taken) and owner.places is self else None

    def close(self) -> None:
        """No more processes will be handed the memory; it goes with the last array."""
        os.close(self.fd)

    def _give_back(self, place: int) -> None:
        self._free.append(place)


class _Taken:
    """Who holds a place: every array that shows it refers to this."""

    def __init__(self, places: OwnPlaces, place: int) -> None:
        self.places, self.place = places, place
        self.__array_interface__ = places.pixels(place).__array_interface__

    def __del__(self) -> None:
        self.places._give_back(self.place)
