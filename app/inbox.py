"""What a client has sent and nobody has worked on yet: bounded, whatever the client sends."""

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Item:
    """A message that waits."""

    arrived: float
    data: bytes | str
    credited: bool = False
    """Whether credit was given for it already."""


class Inbox:
    """Messages that wait to be worked on: a bounded number of bounded size, whatever the client sends."""

    def __init__(self, frames: int, most_bytes: int) -> None:
        self._frames, self._bytes = frames, most_bytes
        self._items: deque[Item] = deque()
        self._held = 0
        self._filled, self._freed = asyncio.Event(), asyncio.Event()

    async def put(self, item: Item, *, live: bool) -> list[Item]:
        """Waits for room; with `live`, makes room by dropping the oldest frames. Gives those. For one task."""
        dropped: list[Item] = []
        while self._full():
            if live and (oldest := next((i for i in self._items if isinstance(i.data, bytes)), None)) is not None:
                self._items.remove(oldest)
                self._held -= len(oldest.data)
                dropped.append(oldest)
            else:
                self._freed.clear()
                await self._freed.wait()
        self._items.append(item)
        self._held += len(item.data)
        self._filled.set()
        return dropped

    @property
    def empty(self) -> bool:
        return not self._items

    def _full(self) -> bool:
        return bool(self._items) and (len(self._items) >= self._frames or self._held >= self._bytes)

    async def get(self) -> Item:
        """The oldest one; waits for it. For one task."""
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        item = self._items.popleft()
        self._held -= len(item.data)
        self._freed.set()
        return item
