"""What a client knows of its stream, without I/O: frames that may have to be sent again, what may be on the way, what was told."""

import json
from collections import deque
from typing import Any

from app.client.errors import Lost
from app.client.sources import Encoded

Message = dict[str, Any]
"""As in docs/protocol.md."""
_AHEAD = 64
"""Frames read from a source that can wait before they can be sent."""
_RECENT = 4
"""Segments that the service says again after a break."""
_UNHEARD = _RECENT - 1
"""Segments that may be finished without our hearing of it: more frames are not sent. Credit alone would allow more, as of a source
with few frames a second, and of those only the last few could be said again. One less, as the last that was heard may lack events."""
_GAP = 1.0
"""Seconds. A longer time between two frames is a gap, of which there are no labels."""
_REMEMBERED = 64
"""Segments whose events are remembered."""


class Backlog:
    """Frames that were read and are not durable yet: first those that were sent, then those that were not. Bounded."""

    def __init__(self, most_frames: int, most_bytes: int) -> None:
        self._most_frames, self._most_bytes = most_frames, most_bytes
        self._sent: deque[Encoded] = deque()
        self._unsent: deque[Encoded] = deque()
        self._begin = 0
        self.bytes = 0
        """Size of the pictures."""

    def __len__(self) -> int:
        return len(self._sent) + len(self._unsent)

    @property
    def next(self) -> Encoded | None:
        """The frame to be sent next."""
        return self._unsent[0] if self._unsent else None

    @property
    def has_room(self) -> bool:
        """Whether a source that can wait goes on; if nothing can be sent any more, it must, or all would wait for ever."""
        return not self._unsent or (len(self._unsent) < _AHEAD and not self._over(0))

    def _over(self, more: int) -> bool:
        return len(self) >= self._most_frames or self.bytes + more > self._most_bytes

    def add(self, frame: Encoded, *, live: bool) -> int:
        """Takes the next frame. Makes room for it: of a live source by the oldest that were not sent, else by the oldest at all.

        Gives how many there were of the former; they are lost. The latter are only missed after a break.
        """
        size, dropped = len(frame[2]), 0
        while self._over(size):
            if live and self._unsent:
                self.bytes -= len(self._unsent.popleft()[2])
                dropped += 1
            elif self._sent and not self._unsent:
                number, _, picture = self._sent.popleft()
                self.bytes -= len(picture)
                self._begin = number + 1
            else:
                break
        self._unsent.append(frame)
        self.bytes += size
        return dropped

    def sent(self) -> None:
        """The next frame is on its way."""
        self._sent.append(self._unsent.popleft())

    def release(self, before: int) -> None:
        """Frames before this number are durable."""
        for frames in (self._sent, self._unsent):
            while frames and frames[0][0] < before:
                self.bytes -= len(frames.popleft()[2])
        self._begin = max(self._begin, before)

    def rewind(self, first: int) -> int:
        """Frames from this number on are to be sent again; how many of them are no longer here."""
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        missing = max(0, self._begin - first)
        self.release(first)
        return missing

    def clear(self) -> None:
        """Nothing is here; the source is read again."""
        self._sent.clear()
        self._unsent.clear()
        self._begin = self.bytes = 0


class Flow:
    """What may be on the way on one connection: as many frames as there is credit for, and not too many segments."""

    def __init__(self, credit: int, segment_seconds: float) -> None:
        self.credit = credit
        """Frames that may be sent."""
        self.unheard = 0
        """Segments that the service is about to say again."""
        self._granted, self._segment = credit, segment_seconds
        self._seconds = self._durable = 0.0
        self._latest: float | None = None
        self._marks: deque[tuple[int, float]] = deque()

    def may_send(self, frame: Encoded, *, stalled: bool = False) -> bool:
        """Whether this frame may be sent now. `stalled` says that nothing comes back: then only credit counts."""
        segments = self.unheard + (self._seconds - self._durable + self._step(frame)) / self._segment
        return self.credit > 0 and (segments <= _UNHEARD or not self._marks or stalled)

    def _step(self, frame: Encoded) -> float:
        return 0.0 if self._latest is None else min(max(frame[1] - self._latest, 0.0), _GAP)

    @property
    def is_worked_off(self) -> bool:
        """Whether the service has worked on what was sent, as far as that can be told: it gives credit for several frames at once."""
        return self._granted - self.credit < max(1, self._granted // 4)

    def sent(self, frame: Encoded) -> None:
        """This frame is on its way."""
        self._seconds += self._step(frame)
        self._latest = frame[1]
        self._marks.append((frame[0], self._seconds))
        self.credit -= 1

    def release(self, before: int) -> None:
        """Frames before this number are durable."""
        while self._marks and self._marks[0][0] < before:
            self._durable = self._marks.popleft()[1]


class Told:
    """Which final segments and events were told already, so that none is told twice and none is left out."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._service = 0
        self._events: dict[int, set[str]] = {}

    @property
    def unheard(self) -> int:
        """Segments that were finished before the connection began, and are about to be told."""
        return max(0, self._service - (self._service - _RECENT if self._next is None else self._next))

    def begin(self, segment: int) -> None:
        """A connection begins; `segment` is the index of the service's next one. Raises Lost."""
        self._service = segment
        if self._next is not None and segment < self._next:
            raise Lost(
                f"the stream stands at segment {segment}, but {self._next} were told already: it was deleted and made anew, or "
                "the session store has lost what was durable"
            )
        if segment == 0:
            self._next = 0

    def is_new(self, message: Message) -> bool:
        """Whether a segment or an event is to be told. Raises Lost when one before it never was."""
        if message["type"] == "event":
            events = self._events.setdefault(message["segment"], set())
            text = json.dumps(message, sort_keys=True)
            is_new = text not in events and (self._next is None or message["segment"] >= self._next - _REMEMBERED)
            events.add(text)
            return is_new
        index = message["index"]
        if self._next is not None and index < self._next:
            return False
        if message["final"]:
            self.check(index)
            self._next = index + 1
            for old in [segment for segment in self._events if segment <= index - _REMEMBERED]:
                del self._events[old]
        return True

    def check(self, before: int) -> None:
        """All segments before this index are durable: they must have been told. Raises Lost."""
        if self._next is not None and before > self._next:
            raise Lost(
                f"segments {self._next} to {before - 1} were made and never told: another client had the stream meanwhile, or the "
                "connection was away for too long"
            )
