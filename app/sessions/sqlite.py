"""Sessions in an SQLite file: the embedded store, durable. Several processes of one machine may share it.

Write-ahead log, one connection in a thread of its own. Saves that come while another is on its way to the disk go there together, in one
transaction with one wait, each as a whole or not at all. What was answered survives kill -9 of the process in any case, since it is with
the operating system. `synchronous` decides about a power cut:

    full    (default) survives it: each commit waits for the disk, 0.4 ms on a virtual disk, perhaps 20 ms on an SD card
    normal  the latest commits may be lost, back to a consistent earlier state; 0.02 ms, and an SD card lasts longer

Not covered: a network file system (the log needs shared memory), and a disk that says it wrote and did not.
"""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from json import loads
from pathlib import Path
from typing import TypeVar

from app.sessions.base import (
    ANSWERS,
    PAGE,
    TOMBSTONE_SECONDS,
    Answer,
    Outage,
    Session,
    SessionError,
    SessionExists,
    SessionExpired,
    SessionStore,
    SessionUnknown,
    VersionConflict,
    ring,
)

_T = TypeVar("_T")

APPLICATION = 0x43525453
"""SQLite's application_id: "CRTS"."""
SCHEMA = 2
_TABLES = (
    """CREATE TABLE session (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        state BLOB NOT NULL,
        model TEXT NOT NULL,
        segment INTEGER NOT NULL,
        options TEXT NOT NULL,
        created REAL NOT NULL,
        touched REAL NOT NULL,
        expires REAL NOT NULL,
        owner TEXT,
        owner_since REAL,
        lease_until REAL
    ) STRICT""",
    "CREATE INDEX session_by_expiry ON session (expires)",
    """CREATE TABLE checkpoint (
        session INTEGER NOT NULL REFERENCES session (number) ON DELETE CASCADE,
        segment INTEGER NOT NULL,
        state BLOB NOT NULL,
        PRIMARY KEY (session, segment)
    ) STRICT""",
    """CREATE TABLE answer (
        number INTEGER PRIMARY KEY,
        session INTEGER NOT NULL REFERENCES session (number) ON DELETE CASCADE,
        key TEXT NOT NULL,
        request TEXT NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (session, key)
    ) STRICT""",
    "CREATE TABLE tombstone (id TEXT PRIMARY KEY, until REAL NOT NULL) STRICT, WITHOUT ROWID",
)
_FIELDS = (
    "id", "version", "state", "model", "segment", "options", "created", "touched", "expires", "owner", "owner_since",
    "lease_until",
)  # fmt: skip
_COLUMNS = ", ".join(_FIELDS)
_TOGETHER = 64
"""Saves in a transaction at most, so that other processes come to write, too."""
_LIVE = "id = :id AND expires > :now"

_REASONS = {
    sqlite3.SQLITE_BUSY: "is locked by another process",
    sqlite3.SQLITE_LOCKED: "is locked by another process",
    sqlite3.SQLITE_FULL: "has no room left on its disk",
    sqlite3.SQLITE_READONLY: "may not be written to",
    sqlite3.SQLITE_PERM: "may not be opened",
    sqlite3.SQLITE_AUTH: "may not be opened",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_IOERR: "cannot be read or written: its disk fails or is full",
    sqlite3.SQLITE_CORRUPT: "is damaged: move the file away and restore it, or begin with a new one",
    sqlite3.SQLITE_NOTADB: "is no database: move the file away, or name another one",
    sqlite3.SQLITE_NOMEM: "has no memory left",
}
"""By SQLite's primary result code; goes on "the session store ..."."""


class _Unusable(Exception):  # noqa: N818
    """The file is there, but cannot be this store; the text is the reason."""


@dataclass(slots=True, eq=False)
class _Save:
    """One that waits."""

    work: Callable[[sqlite3.Connection], Session]
    """In a transaction."""
    answer: "asyncio.Future[Session]"


class SqliteStore(SessionStore):
    """See SessionStore. The file is opened at the first call, and again after any failure."""

    def __init__(self, path: Path, *, synchronous: str = "full", wait: float = 5.0) -> None:
        """wait: seconds that a call waits while another process writes."""
        self._path = path.absolute()
        self._synchronous, self._wait = synchronous, wait
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sessions")
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._outage = Outage(f"sqlite {self._path}")
        self._saves: list[_Save] = []
        self._saving: asyncio.Task[None] | None = None

    async def load(self, id: str) -> Session:
        def work(connection: sqlite3.Connection) -> Session:
            with _transaction(connection, "DEFERRED"):  # one view of both tables
                row = connection.execute(f"SELECT {_COLUMNS} FROM session WHERE id = ?", (id,)).fetchone()
                buried = connection.execute("SELECT 1 FROM tombstone WHERE id = ?", (id,)).fetchone()
            session = _session(row) if row else None
            if session and session.expires > time.time():
                return session
            raise SessionExpired(id) if session or buried else SessionUnknown(id)

        return await self._do(work)

    async def create(self, session: Session) -> None:
        values = _values(session)

        def work(connection: sqlite3.Connection) -> None:
            with _transaction(connection):
                connection.execute("DELETE FROM session WHERE id = ? AND expires <= ?", (session.id, time.time()))
                connection.execute("DELETE FROM tombstone WHERE id = ?", (session.id,))
                marks = ", ".join(f":{name}" for name in _FIELDS)
                done = connection.execute(
                    f"INSERT INTO session ({_COLUMNS}) VALUES ({marks}) ON CONFLICT DO NOTHING", values
                )
                if not done.rowcount:
                    raise SessionExists(session.id)

        await self._do(work)

    async def save(
        self, session: Session, *, expected: int, checkpoint: bytes | None = None, keep: int = 0,
        earlier: Mapping[int, bytes] | None = None, answer: Answer | None = None,
    ) -> Session:  # fmt: skip
        new = ring(session, checkpoint, earlier, keep)
        written = replace(session, version=expected + 1)
        values = _values(written)
        written = replace(written, options=loads(str(values["options"])))
        sets = ", ".join(f"{name} = :{name}" for name in _FIELDS if name not in ("id", "created"))

        def work(connection: sqlite3.Connection) -> Session:
            now = time.time()
            row = connection.execute(
                f"UPDATE session SET {sets} WHERE {_LIVE} AND version = :expected AND created = :created RETURNING number",
                {**values, "expected": expected, "now": now},
            ).fetchone()
            if row is None:
                found = connection.execute(
                    f"SELECT version FROM session WHERE {_LIVE}", {"id": session.id, "now": now}
                ).fetchone()
                raise VersionConflict(session.id, expected, found[0] if found else None)
            _turn(connection, row[0], session.segment, None if checkpoint is None else new, keep)
            if answer is not None:
                _keep_answer(connection, row[0], answer)
            return written

        mine = _Save(work, asyncio.get_running_loop().create_future())
        self._saves.append(mine)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_all(), name="saves")
        return await mine.answer

    async def _save_all(self) -> None:
        """Saves what waits, and what comes meanwhile."""
        while self._saves:
            batch, self._saves = self._saves[:_TOGETHER], self._saves[_TOGETHER:]
            works = [one.work for one in batch]
            done: Sequence[Session | Exception]
            try:
                done = await self._do(lambda connection, works=works: _together(connection, works))  # type: ignore[misc]
            except Exception as error:  # handed to all who wait
                done = [error] * len(batch)
            for one, result in zip(batch, done, strict=True):
                if one.answer.done():  # whoever asked has gone
                    continue
                if isinstance(result, Exception):
                    one.answer.set_exception(result)
                else:
                    one.answer.set_result(result)

    async def checkpoint(self, id: str, segment: int) -> bytes | None:
        row = await self._select(
            "SELECT checkpoint.state FROM checkpoint JOIN session ON session = number "
            f"WHERE {_LIVE} AND checkpoint.segment = :segment",
            id=id,
            segment=segment,
        )
        return row[0][0] if row else None

    async def checkpoints(self, id: str) -> Sequence[int]:
        rows = await self._select(
            f"SELECT checkpoint.segment FROM checkpoint JOIN session ON session = number WHERE {_LIVE} "
            "ORDER BY checkpoint.segment",
            id=id,
        )
        return [row[0] for row in rows]

    async def answer(self, id: str, key: str) -> Answer | None:
        rows = await self._select(
            f"SELECT key, request, body FROM answer JOIN session ON session = session.number WHERE {_LIVE} AND key = :key",
            id=id,
            key=key,
        )
        return Answer(*rows[0]) if rows else None

    async def delete(self, id: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            with _transaction(connection):
                expires = connection.execute("DELETE FROM session WHERE id = ? RETURNING expires", (id,)).fetchone()
                connection.execute("DELETE FROM tombstone WHERE id = ?", (id,))
            if expires:
                _empty_log(connection)
            return expires is not None and expires[0] > time.time()

        return await self._do(work)

    async def list(self, after: str | None, limit: int) -> Sequence[Session]:
        columns = ", ".join("x''" if name == "state" else name for name in _FIELDS)
        rows = await self._select(
            f"SELECT {columns} FROM session WHERE id > :after AND expires > :now ORDER BY id LIMIT :limit",
            after=after or "",  # no id is empty
            limit=limit,
        )
        return [_session(row) for row in rows]

    async def expire(self, now: float) -> Sequence[str]:
        def work(connection: sqlite3.Connection) -> Sequence[str]:
            with _transaction(connection):
                connection.execute("DELETE FROM tombstone WHERE until <= ?", (now,))
                rows = connection.execute(
                    "DELETE FROM session WHERE number IN (SELECT number FROM session WHERE expires <= ? LIMIT ?) RETURNING id",
                    (now, PAGE),
                ).fetchall()
                connection.executemany(
                    "INSERT OR REPLACE INTO tombstone VALUES (?, ?)",
                    [(row[0], now + TOMBSTONE_SECONDS) for row in rows],
                )
            return [row[0] for row in rows]

        gone: list[str] = []
        while page := await self._do(work):
            gone += page
        if gone:
            await self._do(_empty_log)
        return sorted(gone)

    async def count(self) -> int:
        rows = await self._select("SELECT count(*) FROM session WHERE expires > :now")
        return int(rows[0][0])

    async def size(self) -> int:
        """Of the file and its log."""

        def work(connection: sqlite3.Connection) -> int:
            files = (self._path, Path(f"{self._path}-wal"))
            return sum(file.stat().st_size for file in files if file.exists())

        return await self._do(work)

    async def close(self) -> None:
        if self._saving is not None:
            await asyncio.wait([self._saving])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def _select(self, query: str, **values: object) -> Sequence[tuple]:
        def work(connection: sqlite3.Connection) -> Sequence[tuple]:
            return connection.execute(query, {"now": time.time(), **values}).fetchall()

        return await self._do(work)

    async def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Does the work in the thread; what is wrong with the file becomes StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._try, work)

    def _try(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            result = work(self._connect())
        except SessionError:
            self._outage.over()  # it did answer
            raise
        except _Unusable as error:
            self._disconnect()
            raise self._outage.error(str(error), error) from error
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code not in _REASONS:
                raise
            if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                self._disconnect()
            raise self._outage.error(_REASONS[code], error) from error
        except OSError as error:
            self._disconnect()
            raise self._outage.error(f"cannot be opened: {error.strerror}", error) from error
        self._outage.over()
        return result

    def _connect(self) -> sqlite3.Connection:
        """The connection, to the file that is there now: one to a file that was removed would lose what it commits."""
        if self._connection is not None:
            if self._inode == _inode(self._path):
                return self._connection
            self._disconnect()
            raise _Unusable("was removed or replaced while it was open")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only the owner may read what is remembered of a home; SQLite gives its log the same mode.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=self._wait, isolation_level=None)
        try:
            inode = _inode(self._path)
            _prepare(connection, self._wait)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not merely unlinked
        except BaseException:
            connection.close()
            raise
        self._connection, self._inode = connection, inode
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


def _prepare(connection: sqlite3.Connection, wait: float) -> None:
    """Makes the tables, or checks those that are there. Raises _Unusable."""
    end = time.monotonic() + wait
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait here while another process opens the file for the first time.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
    with _transaction(connection):
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
        elif application != APPLICATION:
            raise _Unusable("is another program's database: name another file")
        elif schema != SCHEMA:
            raise _Unusable(f"has schema {schema}, this version of the service knows {SCHEMA}: name another file")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All or nothing. IMMEDIATE waits for other writers at its beginning, so that none comes between read and write."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it by itself when the disk is full
            connection.execute("ROLLBACK")
        raise


def _together(
    connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Session]]
) -> list[Session | Exception]:
    """Does all in one transaction; one that a conflict ends leaves nothing and does not end the others."""
    found: list[Session | Exception] = []
    with _transaction(connection):
        for work in works:
            connection.execute("SAVEPOINT one")
            try:
                found.append(work(connection))
            except SessionError as error:
                connection.execute("ROLLBACK TO one")
                found.append(error)
            connection.execute("RELEASE one")
    return found


def _turn(
    connection: sqlite3.Connection, session: int, segment: int, new: Sequence[tuple[int, bytes]] | None, keep: int
) -> None:
    """Brings the ring to where the session is, with its new states, if it comes with any.

    Rows that fall out of the ring are overwritten: half the pages of new ones.
    """
    first = new[0][0] if new else segment + (new is None)
    connection.execute("DELETE FROM checkpoint WHERE session = ? AND segment >= ?", (session, first))
    if new is None:
        return
    # Once for all new ones: each look at a full ring passes over all of it.
    falling = connection.execute(
        "SELECT rowid FROM checkpoint WHERE session = ? ORDER BY segment DESC LIMIT -1 OFFSET ?",
        (session, max(0, keep - len(new))),
    ).fetchall()
    for (row,), (number, state) in zip(falling, new, strict=False):
        connection.execute("UPDATE checkpoint SET segment = ?, state = ? WHERE rowid = ?", (number, state, row))
    for row in falling[len(new) :]:
        connection.execute("DELETE FROM checkpoint WHERE rowid = ?", row)
    for number, state in new[len(falling) :]:
        connection.execute("INSERT INTO checkpoint VALUES (?, ?, ?)", (session, number, state))


def _keep_answer(connection: sqlite3.Connection, session: int, answer: Answer) -> None:
    connection.execute("DELETE FROM answer WHERE session = ? AND key = ?", (session, answer.key))
    connection.execute(
        "INSERT INTO answer (session, key, request, body) VALUES (?, ?, ?, ?)",
        (session, answer.key, answer.request, answer.body),
    )
    connection.execute(
        "DELETE FROM answer WHERE session = ? AND number NOT IN "
        "(SELECT number FROM answer WHERE session = ? ORDER BY number DESC LIMIT ?)",
        (session, session, ANSWERS),
    )


def _empty_log(connection: sqlite3.Connection) -> None:
    """What was deleted is in the log, too. Best effort: it stays until later while another process reads."""
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _values(session: Session) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(session, name) for name in _FIELDS}
    return values | {"options": session.options_json()}


def _session(row: tuple) -> Session:
    fields = dict(zip(_FIELDS, row, strict=True))
    return Session(**{**fields, "options": loads(fields["options"])})
