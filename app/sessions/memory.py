"""Sessions in this process's memory: for tests and for services that need not survive a restart."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from json import loads

from app.sessions.base import (
    ANSWERS,
    TOMBSTONE_SECONDS,
    Answer,
    Session,
    SessionExists,
    SessionExpired,
    SessionStore,
    SessionUnknown,
    VersionConflict,
    ring,
)


@dataclass(slots=True)
class _Kept:
    session: Session
    """With its options as JSON would give them, so that nobody outside holds them too."""
    ring: dict[int, bytes]
    answers: dict[str, Answer] = field(default_factory=dict)


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

    async def save(
        self, session: Session, *, expected: int, checkpoint: bytes | None = None, keep: int = 0,
        earlier: Mapping[int, bytes] | None = None, answer: Answer | None = None,
    ) -> Session:  # fmt: skip
        written = _own(replace(session, version=expected + 1))
        new = ring(session, checkpoint, earlier, keep)
        kept = self._live(session.id)
        if kept is None or kept.session.version != expected or kept.session.created != session.created:
            raise VersionConflict(session.id, expected, kept.session.version if kept else None)
        kept.session = written
        # A ring's keys ascend: whatever is not before the new ones is dropped first.
        first = new[0][0] if new else session.segment + 1
        while kept.ring and next(reversed(kept.ring)) >= first:
            kept.ring.popitem()
        if checkpoint is not None:
            kept.ring |= {segment: bytes(state) for segment, state in new}
            while len(kept.ring) > max(keep, 0):
                del kept.ring[next(iter(kept.ring))]
        if answer is not None:
            kept.answers.pop(answer.key, None)
            kept.answers[answer.key] = answer
            while len(kept.answers) > ANSWERS:
                del kept.answers[next(iter(kept.answers))]
        return _own(written)

    async def checkpoint(self, id: str, segment: int) -> bytes | None:
        kept = self._live(id)
        return kept.ring.get(segment) if kept else None

    async def checkpoints(self, id: str) -> Sequence[int]:
        kept = self._live(id)
        return tuple(kept.ring) if kept else ()

    async def answer(self, id: str, key: str) -> Answer | None:
        kept = self._live(id)
        return kept.answers.get(key) if kept else None

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
        """Of states, checkpoints and answers."""
        return sum(
            len(kept.session.state)
            + sum(map(len, kept.ring.values()))
            + sum(len(a.body) for a in kept.answers.values())
            for kept in self._kept.values()
        )

    async def close(self) -> None:
        self._kept.clear()
        self._tombstones.clear()


def _own(session: Session) -> Session:
    return replace(session, options=loads(session.options_json()))
