"""Sessions in this process's memory: for tests and for services that need not survive a restart."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from json import loads

from app.sessions.base import (
    TOMBSTONE_SECONDS,
    Session,
    SessionExists,
    SessionExpired,
    SessionStore,
    SessionUnknown,
    VersionConflict,
    check_size,
)


@dataclass(slots=True)
class _Kept:
    session: Session
    """With its options as JSON would give them, so that nobody outside holds them too."""
    ring: dict[int, bytes]


class MemoryStore(SessionStore):
    """See SessionStore. Each call is atomic as none of them waits for anything."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._tombstones: dict[str, float] = {}
        """Until when each is remembered, in seconds since 1970."""

    def _live(self, id: str) -> _Kept | None:
        kept = self._kept.get(id)
        return kept if kept is not None and kept.session.expires > time.time() else None

    async def load(self, id: str) -> Session:
        if kept := self._live(id):
            return _own(kept.session)
        raise SessionExpired(id) if id in self._kept or id in self._tombstones else SessionUnknown(id)

    async def create(self, session: Session) -> None:
        if self._live(session.id):
            raise SessionExists(session.id)
        self._kept[session.id] = _Kept(_own(session), {})
        self._tombstones.pop(session.id, None)

    async def save(self, session: Session, *, expected: int, checkpoint: bytes | None = None, keep: int = 0) -> Session:
        written = _own(replace(session, version=expected + 1))
        check_size("a checkpoint", len(checkpoint or b""))
        kept = self._live(session.id)
        if kept is None or kept.session.version != expected or kept.session.created != session.created:
            raise VersionConflict(session.id, expected, kept.session.version if kept else None)
        kept.session = written
        # A ring's keys ascend: whatever is not before the new one is dropped first.
        while kept.ring and next(reversed(kept.ring)) > session.segment:
            kept.ring.popitem()
        if checkpoint is not None:
            kept.ring[session.segment] = bytes(checkpoint)
            while len(kept.ring) > keep:
                del kept.ring[next(iter(kept.ring))]
        return _own(written)

    async def checkpoint(self, id: str, segment: int) -> bytes | None:
        kept = self._live(id)
        return kept.ring.get(segment) if kept else None

    async def checkpoints(self, id: str) -> Sequence[int]:
        kept = self._live(id)
        return tuple(kept.ring) if kept else ()

    async def delete(self, id: str) -> bool:
        was = self._live(id) is not None
        self._kept.pop(id, None)
        self._tombstones.pop(id, None)
        return was

    async def list(self, after: str | None, limit: int) -> Sequence[Session]:
        ids = sorted(id for id in self._kept if (after is None or id > after) and self._live(id))
        return [_own(replace(self._kept[id].session, state=b"")) for id in ids[:limit]]

    async def expire(self, now: float) -> Sequence[str]:
        self._tombstones = {id: until for id, until in self._tombstones.items() if until > now}
        gone = sorted(id for id, kept in self._kept.items() if kept.session.expires <= now)
        for id in gone:
            del self._kept[id]
            self._tombstones[id] = now + TOMBSTONE_SECONDS
        return gone

    async def count(self) -> int:
        return sum(1 for id in self._kept if self._live(id))

    async def size(self) -> int:
        """Of states and checkpoints."""
        return sum(len(kept.session.state) + sum(map(len, kept.ring.values())) for kept in self._kept.values())

    async def close(self) -> None:
        self._kept.clear()
        self._tombstones.clear()


def _own(session: Session) -> Session:
    return replace(session, options=loads(session.options_json()))
