"""Streams under their ids: who holds one to write to it, what is durable of it, when it ends.

A writer holds a stream: it has loaded the session, set its name on it, and every save says which version it follows. So a
writer whose stream was taken over, here or at another replica, learns it at its next save at the latest, and can commit nothing.
app/writers.py tells a writer that lives from one that died without a word.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self, TypeVar
from weakref import WeakValueDictionary

from app.following import Followers, Live
from app.metrics import Metrics
from app.protocol import Options
from app.sessions.base import (
    Answer,
    Session,
    SessionExists,
    SessionExpired,
    SessionStore,
    SessionUnknown,
    StoreUnavailable,
    VersionConflict,
)
from app.writers import Writer, process
from models.errors import CrtError
from pipelines import state as states
from pipelines.events import EventOptions
from pipelines.recognizer import Recognizer
from pipelines.streaming import Stream, StreamState

log = logging.getLogger(__name__)
ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._:-]{1,128}")
"""Neither "." nor "..", which clients take out of addresses."""
LEASE = 10.0
"""Seconds that a writer on another machine is believed to live without a word."""
RENEW = 3.0
"""Seconds between a writer's words."""
MOVING = 1.5
"""Seconds that clients have to leave when the service goes down."""
UNFINISHED = 16
"""Streams whose unfinished segment waits here for the next piece; each may be some 3 MB of pictures."""
KNOWN = 256
"""Streams that were revised last, which need not be loaded again; each is some 10 KB."""
SWEEP = 30.0
"""Seconds between two sweeps for expired sessions."""
_T = TypeVar("_T")


class StreamError(CrtError):
    """Something is wrong with the use of a stream."""

    code = "stream_error"


class StreamOwned(StreamError):  # noqa: N818 - named after what is wrong, as all below
    """Another client writes to the stream."""

    code = "stream_owned"


class StreamRewound(StreamError):  # noqa: N818
    """The stream was taken back to an earlier segment: what its writer knows of it is no longer so."""

    code = "stream_rewound"


class CheckpointUnknown(StreamError):  # noqa: N818
    """The ring does not have the state after this segment."""

    code = "checkpoint_unknown"


class StreamGap(StreamError):  # noqa: N818
    """A piece begins after the place up to which the stream is known."""

    code = "stream_gap"


class ModelChanged(StreamError):  # noqa: N818
    """The stream was made with another model: its memory means nothing to this one."""

    code = "model_changed"


class ServiceMoves(StreamError):  # noqa: N818
    """The service is going down; the stream goes on elsewhere."""

    code = "service_moves"


def check_id(id: str) -> str:
    """Raises ValueError for an id that no stream can have."""
    if not ID.fullmatch(id):
        raise ValueError(
            "a stream's id has 1 to 128 characters: letters, digits, '.', '_', '-' and ':', and is neither '.' nor '..'"
        )
    return id


@dataclass(eq=False)
class Held:
    """A stream and the right to write to it."""

    session: Session
    stream: Stream
    writer: Writer
    options: Options
    evict: Callable[[CrtError], None]
    """Ends whoever holds it, when the stream is taken over, deleted or the service goes down."""
    heard: float
    """When frames last came, in seconds since 1970."""
    lost: CrtError | None = None
    """Why it no longer may write."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One save at a time."""
    saving: asyncio.Future[Session] | None = None
    """A save whose caller may have gone."""
    live: Live = field(default_factory=Live)

    @property
    def id(self) -> str:
        return self.session.id

    @property
    def expires(self) -> float | None:
        return self.session.expires


class Streams:
    """All streams of this service. An async context manager: on leaving, what is held is given up."""

    def __init__(self, store: SessionStore, recognizer: Recognizer, metrics: Metrics, *, patience: float, followers: int = 100
    ) -> None:  # fmt: skip
        """patience is for how many seconds a store that is away is tried again; followers how many may watch."""
        self.followers = Followers(followers)
        self.store, self.recognizer, self._patience = store, recognizer, patience
        self._metrics = metrics
        self._process = process()
        self._held: dict[str, Held] = {}
        self._rest: dict[str, tuple[float, int, Stream]] = {}
        self._known: dict[str, tuple[Session, Stream]] = {}
        self._moving = False
        self._guests = 0
        # Of two that want the same stream at the same moment, one waits until it is known who has it.
        self._claims: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        self._sweeper = asyncio.create_task(self._sweep(), name="sweep")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sweeper.cancel()
        await asyncio.wait([self._sweeper])

    async def _sweep(self) -> None:
        while True:
            try:
                for id in await self.store.expire(time.time()):
                    self._rest.pop(id, None)
                    self._metrics.expired.inc()
                    log.info("stream %s has expired", id)
            except StoreUnavailable:
                pass  # the store has logged it
            except Exception:
                log.exception("the sweep for expired sessions failed; it goes on")
            await asyncio.sleep(SWEEP)

    @contextlib.contextmanager
    def guest(self) -> Iterator[None]:
        """For a connection that writes to a stream: before the service goes down it is told so."""
        self._guests += 1
        try:
            yield
        finally:
            self._guests -= 1

    async def move(self) -> None:
        """The service goes down: asks all who hold a stream to give it up, and waits a moment until they have and their clients know."""
        self._moving = True
        self.followers.end()
        for held in list(self._held.values()):
            held.evict(ServiceMoves("the service goes down or moves; come back and go on"))
        until = time.monotonic() + MOVING
        while (self._held or self._guests) and time.monotonic() < until:
            await asyncio.sleep(0.02)

    def check_stays(self) -> None:
        """Raises ServiceMoves when the service is going down."""
        if self._moving:
            raise ServiceMoves("the service goes down or moves; come back and go on")

    @property
    def held(self) -> int:
        """Streams that are written to."""
        return len(self._held)

    def live(self, id: str) -> Live | None:
        """How the stream's writer is doing; None if there is none in this process."""
        held = self._held.get(id)
        return None if held is None or held.lost is not None else held.live

    # Making and finding

    def fresh(self, id: str, options: Options, state: StreamState | None = None) -> Session:
        """A session that is not stored yet."""
        now = time.time()
        state = state or StreamState(memory_M=self.recognizer.initial_memory())
        return Session(
            id=check_id(id), version=0, state=states.to_bytes(state), model=self.recognizer.model.digest, segment=state.segments,
            options=options.model_dump(mode="json", exclude_defaults=True), created=now, touched=now, expires=_expiry(options, now, now),
        )  # fmt: skip

    def state_of(self, session: Session) -> StreamState:
        """Raises ModelChanged, BadState."""
        ours = self.recognizer.model.digest
        if session.model != ours:
            raise ModelChanged(
                f"stream {session.id!r} was made with the model {session.model}; this service has {ours}. "
                "Serve that model, or begin a new stream."
            )
        return states.from_bytes(
            session.state, memory=self.recognizer.model.memory, classes=len(self.recognizer.labels)
        )

    def stream_of(self, session: Session) -> tuple[Stream, Options]:
        """Raises ModelChanged, BadState."""
        options = Options.model_validate(dict(session.options))
        recognizer = self.recognizer
        events = EventOptions(hold=options.hold, least=options.least, shortest=options.shortest)
        stream = Stream(
            recognizer.spec, recognizer.segment, recognizer.labels, recognizer.background, self.state_of(session), events=events,
            remembers=recognizer.remembers, several=recognizer.several,
        )  # fmt: skip
        return stream, options

    async def hold(
        self,
        id: str,
        client: str | None,
        evict: Callable[[CrtError], None],
        *,
        takeover: bool = False,
        make: Options | None = None,
    ) -> Held:
        """The stream, to write to; made with the options `make` if there is none.

        Raises StreamOwned, ModelChanged, ServiceMoves, SessionUnknown, SessionExpired, StoreUnavailable.
        """
        claim = self._claims.setdefault(id, asyncio.Lock())
        async with claim:
            try:
                held = await self._hold(id, client, evict, takeover=takeover, make=make)
            except CrtError as error:
                self._metrics.refused.labels(error.code).inc()
                raise
            self._metrics.admitted.inc()
            if held.session.version > 0:
                self._metrics.resumed.inc()
            return held

    async def _hold(
        self, id: str, client: str | None, evict: Callable[[CrtError], None], *, takeover: bool, make: Options | None
    ) -> Held:
        writer = Writer(client or secrets.token_hex(8), self._process)
        for _ in range(20):
            self.check_stays()
            now = time.time()
            try:
                session = await self.store.load(id)
            except SessionUnknown:
                if make is None:
                    raise
                session = replace(self.fresh(id, make), owner=str(writer), owner_since=now, lease_until=now + LEASE)
                try:
                    await self.store.create(session)
                except SessionExists:
                    continue
            else:
                self.state_of(session)
                if not takeover:
                    self._check_free(session, client, now)
                claimed = replace(session, owner=str(writer), owner_since=now, lease_until=now + LEASE)
                try:
                    session = await self.store.save(claimed, expected=session.version, keep=_keep(session))
                except VersionConflict:
                    await asyncio.sleep(0.01)
                    continue
            if (before := self._held.pop(id, None)) is not None:
                self._lose(before, StreamOwned(f"another client has taken over stream {id!r}"))
            stream, options = self.stream_of(session)
            if (kept := self._rest.pop(id, None)) is not None and kept[:2] == (session.created, session.version - 1):
                stream = kept[2]
            held = Held(session, stream, writer, options, evict, session.touched)
            self._held[id] = held
            return held
        raise StreamOwned(f"many clients want to write to stream {id!r} at the same time; try again")

    def _check_free(self, session: Session, client: str | None, now: float) -> None:
        """Raises StreamOwned if another client writes to it."""
        if session.owner is None:
            return
        other = Writer.parse(session.owner)
        if other.process == self._process:
            held = self._held.get(session.id)
            alive = held is not None and str(held.writer) == session.owner
        else:
            alive = other.alive(session.lease_until, now)
        if alive and other.client != client:
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(session.owner_since or now))
            raise StreamOwned(
                f"another client writes to stream {session.id!r} since {since}, at the service {other.place}; wait for it, "
                "or take over with takeover=true"
            )

    def _lose(self, held: Held, why: CrtError) -> None:
        if held.lost is None:
            held.lost = why
            held.evict(why)

    # Writing

    async def revise(self, id: str, work: Callable[[Stream, Options, list[StreamState]], Awaitable[_T]]) -> _T:
        """One step of a stream for one who does not hold it: loads it, does the work on it, saves it. All or nothing.

        The work is done again when somebody else was first, and must therefore go by the state that it is given. To the list it adds
        the state after each segment.
        Raises what the work raises; SessionUnknown, SessionExpired, ModelChanged, StreamOwned, ServiceMoves, StoreUnavailable.
        """
        for _ in range(20):
            self.check_stays()
            # Another may have been at it meanwhile, which the save will tell.
            session, stream = self._known.pop(id, None) or (None, None)
            remembered = session is not None and (session.expires is None or session.expires > time.time())
            if session is None or stream is None or not remembered:
                session = await self.patiently(lambda: self.store.load(id))
                self._check_free(session, None, time.time())
                stream, options = self.stream_of(session)
            else:
                options = Options.model_validate(dict(session.options))
            before, passed = stream.state(), list[StreamState]()
            try:
                done = await work(stream, options, passed)
            except StreamError:
                if remembered:
                    continue
                raise
            if remembered and stream.state() is before:
                continue
            if (state := stream.state()) is not before:
                now = time.time()
                after = replace(
                    session, state=states.to_bytes(state), segment=state.segments, touched=now, expires=_expiry(options, session.created, now),
                    owner=None, owner_since=None, lease_until=None,
                )  # fmt: skip
                held = Held(session, stream, Writer("", self._process), options, lambda _: None, now)
                try:
                    earlier = passed[:-1][-options.checkpoints :] if options.checkpoints else []
                    kept = {one.segments: states.to_bytes(one) for one in earlier}
                    session = await self._save(held, after, {**kept, state.segments: after.state}, None)
                except StreamOwned:
                    continue  # another was first
                self._rest.pop(id, None)
            self._known[id] = session, stream
            while len(self._known) > KNOWN:
                self._known.pop(next(iter(self._known)))
            return done
        raise StreamOwned(f"many clients want to write to stream {id!r} at the same time; try again")

    async def state_after(self, session: Session, segment: int | None) -> bytes:
        """The state after so many of a session's segments, by default all. Raises CheckpointUnknown, ModelChanged, StoreUnavailable."""
        if segment is None or segment == session.segment:
            return session.state
        if segment == 0:
            self.state_of(session)  # the state before all is this model's
            return states.to_bytes(StreamState(memory_M=self.recognizer.initial_memory()))
        kept = await self.store.checkpoint(session.id, segment)
        if kept is None:
            ring = await self.store.checkpoints(session.id)
            there = f"{ring[0]} to {ring[-1]}" if ring else "none; give a stream `checkpoints` when it is made"
            raise CheckpointUnknown(f"stream {session.id!r} keeps no state after segment {segment}; it has {there}")
        return kept

    async def rewind(self, id: str, segment: int, *, takeover: bool = False) -> Session:
        """Takes a stream back to where it was after so many segments; at 0 it begins anew. What came after is forgotten.

        Its writer, with takeover, is told. Raises CheckpointUnknown, StreamOwned, ModelChanged, SessionUnknown, SessionExpired,
        ServiceMoves, StoreUnavailable.
        """
        for _ in range(20):
            if self._moving:
                raise ServiceMoves("the service goes down or moves; come back and go on")
            now = time.time()
            session = await self.patiently(lambda: self.store.load(id))
            self.state_of(session)
            if not takeover:
                self._check_free(session, None, now)
            options = Options.model_validate(dict(session.options))
            after = replace(
                session, state=await self.state_after(session, segment), segment=segment, touched=now,
                expires=_expiry(options, session.created, now), owner=None, owner_since=None, lease_until=None,
            )  # fmt: skip
            try:
                saved = await self.store.save(after, expected=session.version)
            except VersionConflict:
                continue  # its writer was first
            self._rest.pop(id, None)
            self._known.pop(id, None)
            if (held := self._held.pop(id, None)) is not None:
                self._lose(
                    held,
                    StreamRewound(f"stream {id!r} was taken back to segment {segment}; come back to go on from there"),
                )
            return saved
        raise StreamOwned(f"many clients want to write to stream {id!r} at the same time; try again")

    async def commit(
        self,
        held: Held,
        *,
        frames: bool = True,
        stream: Stream | None = None,
        checkpoints: Mapping[int, bytes] | None = None,
        answer: Answer | None = None,
        options: Options | None = None,
        release: bool = False,
    ) -> None:
        """Makes the stream's state durable. `frames` says that there were some, which keeps it from expiring.

        `stream` takes the place of the holder's, unless the commit fails: then it is as if it had never been.

        Raises StoreUnavailable when the store stays away for too long; StreamOwned, SessionUnknown or SessionExpired when the
        stream is no longer the holder's.
        """
        async with held.lock:
            if held.saving is not None:
                await asyncio.wait([held.saving])
            if held.lost is not None:
                raise held.lost
            if options is not None:
                held.options = options
            now = time.time()
            if frames:
                held.heard = now
            before, held.stream = held.stream, stream or held.stream
            state = held.stream.state()
            touched = max(held.heard, held.session.touched)
            session = replace(
                held.session, state=states.to_bytes(state), segment=state.segments, touched=touched,
                options=held.options.model_dump(mode="json", exclude_defaults=True), expires=_expiry(held.options, held.session.created, touched),
                owner=None if release else str(held.writer), owner_since=None if release else held.session.owner_since,
                lease_until=None if release else now + LEASE,
            )  # fmt: skip
            if checkpoints is None and state.segments > held.session.segment:
                checkpoints = {state.segments: session.state}
            # Whoever waits may be cancelled; whether it was written must be known nevertheless.
            held.saving = asyncio.ensure_future(self._save(held, session, checkpoints or {}, answer))
            held.saving.add_done_callback(partial(self._saved, held, before))
            await asyncio.shield(held.saving)

    @staticmethod
    def _saved(held: Held, before: Stream, done: asyncio.Future[Session]) -> None:
        if not done.cancelled() and done.exception() is None:
            held.session = done.result()
        else:
            held.stream = before

    async def renew(self, held: Held) -> None:
        """Says that the writer lives, and when it last had frames; nothing else changes."""
        await self.commit(held, frames=False)

    async def keep(self, held: Held) -> None:
        """Says so again and again, before the lease or the stream's idle time runs out. Raises SessionExpired, and what commit does."""
        while True:
            idle = held.options.idle_seconds
            await asyncio.sleep(min(RENEW, max(idle / 4, 0.05)))
            session, now = held.session, time.time()
            if now >= session.expires:
                raise SessionExpired(held.id)
            idles = held.heard > session.touched and now - session.touched > idle / 2
            if idles or (session.lease_until or 0) - now < 2 * RENEW:
                await self.renew(held)

    async def release(self, held: Held, *, keep: bool = False) -> None:
        """Gives the stream back. With `keep`, what is in its unfinished segment waits here for the next piece."""
        if self._held.get(held.id) is held:
            del self._held[held.id]
        if held.lost is not None:
            return
        try:
            await self.commit(held, frames=False, release=True)
        except CrtError as error:
            log.info("stream %s could not be given back: %s", held.id, error)
            return
        held.lost = StreamOwned("the stream was given back")
        if keep:
            self._rest.pop(held.id, None)
            self._rest[held.id] = held.session.created, held.session.version, held.stream
            while len(self._rest) > UNFINISHED:
                self._rest.pop(next(iter(self._rest)))

    async def _save(
        self, held: Held, session: Session, checkpoints: Mapping[int, bytes], answer: Answer | None
    ) -> Session:
        expected, again = held.session.version, False

        async def once() -> Session:
            nonlocal again
            own, earlier = (
                checkpoints.get(session.segment),
                {n: c for n, c in checkpoints.items() if n < session.segment},
            )
            try:
                return await self.store.save(
                    session,
                    expected=expected,
                    checkpoint=own,
                    keep=held.options.checkpoints,
                    earlier=earlier,
                    answer=answer,
                )
            except VersionConflict as conflict:
                if again and conflict.found == expected + 1:
                    # Was it we, before the store went away?
                    there = await self.store.load(session.id)
                    if (there.owner, there.touched, there.state) == (session.owner, session.touched, session.state):
                        return there
                raise
            except StoreUnavailable:
                again = True
                raise

        self._metrics.state_bytes.observe(len(session.state))
        try:
            with self._metrics.waiting("store"):
                saved = await self.patiently(once)
            self._metrics.commits.inc()
            return saved
        except VersionConflict as conflict:
            self._metrics.conflicts.inc()
            expired = time.time() >= held.session.expires
            gone = None if conflict.found is not None else (SessionExpired if expired else SessionUnknown)(held.id)
            why = gone or StreamOwned(f"another client has taken over stream {held.id!r}")
            held.lost = held.lost or why
            raise why from conflict

    async def patiently(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Does the work, again and again while the store is away. Raises StoreUnavailable when it stays away."""
        until, pause = time.monotonic() + self._patience, 0.05
        while True:
            try:
                return await work()
            except StoreUnavailable:
                if time.monotonic() + pause > until:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, 1.0)

    async def delete(self, id: str) -> None:
        """Forgets all of it. Raises SessionUnknown."""
        self._rest.pop(id, None)
        there = await self.store.delete(id)
        if (held := self._held.pop(id, None)) is not None:
            self._lose(held, SessionUnknown(id))
        if not there:
            raise SessionUnknown(id)


def _expiry(options: Options, created: float, touched: float) -> float:
    ends = [touched + options.idle_seconds]
    if options.lifetime_seconds is not None:
        ends.append(created + options.lifetime_seconds)
    return min(ends)


def _keep(session: Session) -> int:
    return Options.model_validate(dict(session.options)).checkpoints


def health(state: StreamState) -> dict[str, Any]:
    """How the memory is: its length, how many of its numbers are at their limits, whether it changes at all."""
    memory_M = state.memory_M
    return {
        "norm": round(float((memory_M**2).sum() ** 0.5), 6),
        "saturated": round(float((abs(memory_M) > 0.99).mean()), 6),
        "bytes": memory_M.nbytes,
    }
