"""What is kept of a stream, and what every store of it does.

A store knows ids, versions and bytes, nothing of models and frames. A session's version grows by one with each save, and a
save says which version it follows: of two writers only the first wins. Beside the session it keeps a ring of checkpoints,
the states after its newest segments, and the newest answers to its requests. A session past its `expires` is gone for all
calls, at once; expire() clears it away.

    CrtError                internal                   (models/errors.py)
      SessionError          session_error
        SessionUnknown      session_unknown            never made, deleted, or expired long ago
        SessionExpired      session_expired            expired, within TOMBSTONE_SECONDS
        SessionExists       session_exists             made already
        VersionConflict     session_conflict           another writer was first
        SessionTooLarge     session_too_large          more than the few KB that a session may take
        StoreUnavailable    store_unavailable          the store cannot be reached, read or written now; to be tried again
      BadStoreUrl           store_url_bad              no store can have this URL
"""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from models.errors import CrtError

log = logging.getLogger(__name__)

STATE_BYTES = 32 << 10
"""Most bytes of a state and of a checkpoint: the bundled model's have 3.6 KB, one with 400 labels and no memory 10 KB, mostly scores."""
OPTIONS_BYTES = 4096
"""Most bytes of a session's options as JSON."""
ANSWER_BYTES = 1 << 18
"""Most bytes of an answer."""
ANSWERS = 8
"""Answers that are kept of a session, the newest."""
TOMBSTONE_SECONDS = 7 * 86400.0
"""How long an expired session is told from one that never was."""
PAGE = 100
"""Expired sessions that are cleared away in one step; others may come between two steps."""
_LAST_TIME = 1e11
"""Seconds since 1970: the year 5138. More is a time in milliseconds."""


class SessionError(CrtError):
    """Something is wrong with a session or its store."""

    code = "session_error"


class SessionUnknown(SessionError):  # noqa: N818 - named after what is wrong, as all below
    """There is no such session, and for long there was none."""

    code = "session_unknown"

    def __init__(self, id: str) -> None:
        super().__init__(f"there is no session {id!r}")


class SessionExpired(SessionError):  # noqa: N818
    """The session lived longer than it was given, or was idle for too long."""

    code = "session_expired"

    def __init__(self, id: str) -> None:
        super().__init__(f"session {id!r} has expired and is forgotten; begin a new one")


class SessionExists(SessionError):  # noqa: N818
    """A session of this id was made already."""

    code = "session_exists"

    def __init__(self, id: str) -> None:
        super().__init__(f"there is a session {id!r} already; go on with it, delete it, or take another id")


class VersionConflict(SessionError):  # noqa: N818
    """The session is no longer what the writer read; nothing was written."""

    code = "session_conflict"

    def __init__(self, id: str, expected: int, found: int | None) -> None:
        self.expected = expected
        """Version that the writer had read."""
        self.found = found
        """Version in the store; None if the session was deleted or has expired."""
        now = "it is gone" if found is None else f"the store has {found}"
        if found == expected:
            now += " of a session that was deleted and made anew"
        super().__init__(f"session {id!r}: read version {expected}, {now}; load it again")


class SessionTooLarge(SessionError):  # noqa: N818
    """A session takes more than the few KB that it may."""

    code = "session_too_large"


class StoreUnavailable(SessionError):  # noqa: N818
    """The store cannot be reached, read or written now. What was being written may be there or not; see SessionStore.save."""

    code = "store_unavailable"


class BadStoreUrl(CrtError):  # noqa: N818
    """No store can have this URL."""

    code = "store_url_bad"


@dataclass(frozen=True, slots=True)
class Session:
    """What is stored of a stream. All times are seconds since 1970."""

    id: str
    version: int
    """Grows by one with each save; SessionStore.save sets it."""
    state: bytes
    """Opaque, at most STATE_BYTES."""
    model: str
    """Digest of the model that made the state."""
    segment: int
    """Finished segments."""
    options: Mapping[str, Any]
    """As given by JSON, at most OPTIONS_BYTES of it."""
    created: float
    """Never changes: it tells a session from one of the same id that was deleted before."""
    touched: float
    expires: float
    """The earlier of idle and absolute expiry."""
    owner: str | None = None
    """Who writes."""
    owner_since: float | None = None
    lease_until: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for an empty id, negative numbers and times that are none; SessionTooLarge."""
        if not self.id or self.version < 0 or self.segment < 0:
            raise ValueError(f"no session has id {self.id!r}, version {self.version}, segment {self.segment}")
        self.id.encode()  # lone surrogates are no text, and no store can keep them
        for name in ("created", "touched", "expires", "owner_since", "lease_until"):
            time = getattr(self, name)
            if time is not None and not 0 <= time < _LAST_TIME:
                raise ValueError(f"{name}={time!r}: times are seconds since 1970")
        check_size("a session's state", len(self.state))

    def options_json(self) -> str:
        """The options as JSON. Raises SessionTooLarge; TypeError or ValueError if JSON cannot say them."""
        text = json.dumps(dict(self.options), allow_nan=False, separators=(",", ":"))
        check_size("a session's options", len(text), OPTIONS_BYTES)
        return text


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered, kept beside its session so that a retry gets the same."""

    key: str
    """The request's own name, up to 255 characters."""
    request: str
    """A digest of what was asked, up to 128 characters."""
    body: bytes
    """At most ANSWER_BYTES."""

    def __post_init__(self) -> None:
        """Raises ValueError for a key or digest that cannot be kept; SessionTooLarge."""
        if not (0 < len(self.key) <= 255 and len(self.request) <= 128 and "\n" not in self.key + self.request):
            raise ValueError(f"no answer has key {self.key!r} and request {self.request!r}")
        self.key.encode(), self.request.encode()  # lone surrogates are no text
        check_size("an answer", len(self.body), ANSWER_BYTES)


def check_size(what: str, size: int, most: int = STATE_BYTES) -> None:
    """Raises SessionTooLarge for more than `most` bytes."""
    if size > most:
        raise SessionTooLarge(f"{what} may take {most} bytes, these are {size}")


class SessionStore(ABC):
    """Sessions under their ids. An async context manager. Any call raises StoreUnavailable.

    One object serves one event loop; any number of tasks may call it at the same time.
    """

    @abstractmethod
    async def load(self, id: str) -> Session:
        """Raises SessionUnknown, SessionExpired."""

    @abstractmethod
    async def create(self, session: Session) -> None:
        """Stores a session that is not there yet, with its version as given. Raises SessionExists.

        An expired one of the same id makes room.
        """

    @abstractmethod
    async def save(
        self, session: Session, *, expected: int, checkpoint: bytes | None = None, keep: int = 0,
        earlier: Mapping[int, bytes] | None = None, answer: Answer | None = None,
    ) -> Session:  # fmt: skip
        """Writes a session whose version was `expected`, and what comes with it, all or nothing; returns it with the next version.

        The checkpoint is kept under session.segment, in a ring of the `keep` newest; `earlier` has those of segments before
        it, and needs a checkpoint. From the first of them on they replace what the ring had, and what it had of later
        segments than the session's is dropped in any case: a session that was rewound has no such future. The answer joins
        the ANSWERS newest, in place of one with the same key. Raises VersionConflict, also for one deleted and made anew.

        After StoreUnavailable the write may have happened nevertheless. Save again; on a conflict that found expected + 1,
        load: what has one's own `owner` and `touched` is what was written.
        """

    @abstractmethod
    async def checkpoint(self, id: str, segment: int) -> bytes | None:
        """The state after so many segments; None if the ring does not have it, or there is no such session."""

    @abstractmethod
    async def checkpoints(self, id: str) -> Sequence[int]:
        """The segments that the ring has, ascending; none if there is no such session."""

    @abstractmethod
    async def answer(self, id: str, key: str) -> Answer | None:
        """What was answered under this key; None if nothing was, too many others were since, or there is no such session."""

    @abstractmethod
    async def delete(self, id: str) -> bool:
        """Forgets all of it: session, ring, and that it ever was. Says whether there was one."""

    @abstractmethod
    async def list(self, after: str | None, limit: int) -> Sequence[Session]:
        """The first sessions whose ids come after, ascending by code points; their states are left out (b"")."""

    @abstractmethod
    async def expire(self, now: float) -> Sequence[str]:
        """Clears away what has expired by `now`; returns the ids, each to one caller only, even if several sweep."""

    @abstractmethod
    async def count(self) -> int:
        """Sessions that have not expired."""

    @abstractmethod
    async def size(self) -> int:
        """Bytes that the store takes."""

    @abstractmethod
    async def close(self) -> None:
        """Gives back threads, files and connections. What was saved stays, but for memory://."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Outage:
    """Whether a store is away: logs the beginning and the end with the store's address, which clients are not told."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._reason: str | None = None

    def error(self, reason: str, cause: BaseException) -> StoreUnavailable:
        """The error to raise; the reason goes on "the session store ..."."""
        if reason != self._reason:
            log.warning("session store %s %s (%s)", self._address, reason, cause)
            self._reason = reason
        return StoreUnavailable(f"the session store {reason}; try again later")

    def over(self) -> None:
        """The store has answered."""
        if self._reason is not None:
            log.warning("session store %s is back", self._address)
            self._reason = None


def ring(
    session: Session, checkpoint: bytes | None, earlier: Mapping[int, bytes] | None, keep: int
) -> list[tuple[int, bytes]]:
    """The checkpoints that a save has to write, ascending, at most `keep`. Raises ValueError, SessionTooLarge."""
    if earlier and (checkpoint is None or not all(0 < segment < session.segment for segment in earlier)):
        raise ValueError("earlier checkpoints are of segments before the session's, and come with its own")
    for state in (checkpoint or b"", *(earlier or {}).values()):
        check_size("a checkpoint", len(state))
    if checkpoint is None or keep <= 0:
        return []
    return [*sorted((earlier or {}).items()), (session.segment, checkpoint)][-keep:]
