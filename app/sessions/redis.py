"""Sessions in Redis (or Valkey), for several machines. Every change is one script, so that it is atomic; so is a load.

    PREFIX:1:session:ID   hash   version, created, state, rest (all other fields as JSON); expires by itself
    PREFIX:1:ring:ID      zset   "SEGMENT:STATE" by segment; expires with its session
    PREFIX:1:answers:ID   zset   "LENGTH:KEY\\nREQUEST\\nBODY" by the version that they came with; expires with its session
    PREFIX:1:ids          zset   all ids, ordered by their bytes
    PREFIX:1:expiries     zset   ids by expiry, until expire() has cleared them away
    PREFIX:1:tombstones   zset   ids that have expired, by the time until when they are remembered

Durability is Redis's: only with `appendonly yes` and `appendfsync always` is what was answered there again after any end of
redis-server. With `everysec`, its default, Redis answers before it has written whenever the disk is slow: kill -9 then costs up to
two seconds of commits, a power cut always. With `no` it survives kill -9, but no power cut.

Not covered: Redis Cluster, since a script changes several keys; a failover to a replica
that had not yet received the last commits; other clocks than the service's being wrong by much.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    DataError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.sessions.base import (
    ANSWERS,
    PAGE,
    TOMBSTONE_SECONDS,
    Answer,
    Outage,
    Session,
    SessionExists,
    SessionExpired,
    SessionStore,
    SessionUnknown,
    VersionConflict,
    ring,
)

log = logging.getLogger(__name__)
_T = TypeVar("_T")

CONNECTIONS = 16
"""Most at the same time; more calls wait for one."""
_REST = ("model", "segment", "options", "touched", "expires", "owner", "owner_since", "lease_until")

_LOAD = """
local fields = redis.call('HMGET', KEYS[1], 'version', 'created', 'state', 'rest')
if fields[1] then return fields end
return {redis.call('ZSCORE', KEYS[4], ARGV[1]), redis.call('ZSCORE', KEYS[5], ARGV[1])}
"""
_CREATE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[2], KEYS[6])
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'created', ARGV[3], 'state', ARGV[4], 'rest', ARGV[5])
redis.call('PEXPIREAT', KEYS[1], ARGV[6])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[6], ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[1])
return 1
"""
_SAVE = """
local found = redis.call('HMGET', KEYS[1], 'version', 'created')
if found[1] ~= ARGV[7] or found[2] ~= ARGV[3] then return found[1] end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'state', ARGV[4], 'rest', ARGV[5])
redis.call('PEXPIREAT', KEYS[1], ARGV[6])
redis.call('ZADD', KEYS[4], ARGV[6], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], ARGV[8], '+inf')
if ARGV[9] ~= '' then
    local kept = tonumber(ARGV[9])
    for k = 13, #ARGV, 2 do redis.call('ZADD', KEYS[2], ARGV[k], ARGV[k] .. ':' .. ARGV[k + 1]) end
    redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - kept)
end
redis.call('PEXPIREAT', KEYS[2], ARGV[6])
if ARGV[10] ~= '' then
    for _, one in ipairs(redis.call('ZRANGE', KEYS[6], 0, -1)) do
        if string.sub(one, 1, #ARGV[10]) == ARGV[10] then redis.call('ZREM', KEYS[6], one) end
    end
    redis.call('ZADD', KEYS[6], ARGV[2], ARGV[10] .. ARGV[11])
    redis.call('ZREMRANGEBYRANK', KEYS[6], 0, -1 - ARGV[12])
end
redis.call('PEXPIREAT', KEYS[6], ARGV[6])
return 1
"""
_DELETE = """
local was = redis.call('DEL', KEYS[1])
redis.call('DEL', KEYS[2], KEYS[6])
for k = 3, 5 do redis.call('ZREM', KEYS[k], ARGV[1]) end
return was
"""
_EXPIRE = """
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', ARGV[1])
local gone = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(gone) do
    redis.call('DEL', KEYS[1] .. id, KEYS[2] .. id, KEYS[6] .. id)
    redis.call('ZREM', KEYS[3], id)
    redis.call('ZREM', KEYS[4], id)
    redis.call('ZADD', KEYS[5], ARGV[2], id)
end
return gone
"""
_SEGMENTS = """
local ring, segments = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), {}
for k = 2, #ring, 2 do segments[k / 2] = ring[k] end
return segments
"""
_ANSWER = """
for _, one in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if string.sub(one, 1, #ARGV[1]) == ARGV[1] then return string.sub(one, #ARGV[1] + 1) end
end
return false
"""


class RedisStore(SessionStore):
    """See SessionStore. Connects at the first call, and again after any failure."""

    def __init__(
        self, host: str, port: int = 6379, database: int = 0, *, username: str | None = None, password: str | None = None,
        tls: bool = False, ca: Path | None = None, prefix: str = "crt", wait: float = 2.0,
    ) -> None:  # fmt: skip
        """wait: seconds for a connection and for an answer. ca: certificate that signed the server's."""
        encrypted: dict[str, Any] = {"ssl_ca_certs": str(ca) if ca else None} if tls else {}
        self._pool = BlockingConnectionPool(
            CONNECTIONS,
            wait,
            SSLConnection if tls else Connection,
            host=host,
            port=port,
            db=database,
            username=username,
            password=password,
            socket_timeout=wait,
            socket_connect_timeout=wait,
            # A script sent twice would conflict with itself; whether to try again is the caller's to say.
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            **encrypted,
        )
        self._redis = Redis(connection_pool=self._pool)
        self._wait = wait
        self._prefix = f"{prefix}:1:"
        self._load, self._create, self._save, self._delete, self._expire, self._segments, self._answer = (
            self._redis.register_script(script)
            for script in (_LOAD, _CREATE, _SAVE, _DELETE, _EXPIRE, _SEGMENTS, _ANSWER)
        )
        self._outage = Outage(f"redis {host}:{port}/{database}")

    def _keys(self, id: str = "") -> list[str]:
        return [
            self._prefix + name
            for name in (f"session:{id}", f"ring:{id}", "ids", "expiries", "tombstones", f"answers:{id}")
        ]

    async def load(self, id: str) -> Session:
        fields = await self._run(self._load, self._keys(id), id)
        if len(fields) == 4:
            return _session(id, *fields)
        expires_ms, buried = fields
        if expires_ms is not None and float(expires_ms) / 1000 > time.time() + 60:
            log.error(
                "Redis has dropped session %r %.0f s before it expires; set `maxmemory-policy noeviction`, check the clocks",
                id,
                float(expires_ms) / 1000 - time.time(),
            )
            raise SessionUnknown(id)
        raise SessionUnknown(id) if expires_ms is None and buried is None else SessionExpired(id)

    async def create(self, session: Session) -> None:
        if not await self._run(self._create, self._keys(session.id), *_arguments(session)):
            raise SessionExists(session.id)

    async def save(
        self, session: Session, *, expected: int, checkpoint: bytes | None = None, keep: int = 0,
        earlier: Mapping[int, bytes] | None = None, answer: Answer | None = None,
    ) -> Session:  # fmt: skip
        new = ring(session, checkpoint, earlier, keep)
        written = replace(session, version=expected + 1)
        first = new[0][0] if new else session.segment + (checkpoint is None)
        told = (b"", b"") if answer is None else (_head(answer.key), f"{answer.request}\n".encode() + answer.body)
        found = await self._run(
            self._save, self._keys(session.id), *_arguments(written), expected, first, "" if checkpoint is None else max(0, keep),
            *told, ANSWERS, *(part for one in new for part in one),
        )  # fmt: skip
        if found != 1:
            raise VersionConflict(session.id, expected, None if found is None else int(found))
        return replace(written, options=json.loads(written.options_json()))

    async def checkpoint(self, id: str, segment: int) -> bytes | None:
        found = await self._ask(self._redis.zrangebyscore(self._keys(id)[1], segment, segment))
        return cast(bytes, found[0]).split(b":", 1)[1] if found else None

    async def checkpoints(self, id: str) -> Sequence[int]:
        return [int(segment) for segment in await self._run(self._segments, self._keys(id)[1:2])]

    async def answer(self, id: str, key: str) -> Answer | None:
        # Looked for where they are: together they may have megabytes, and most requests are no retries.
        found = await self._run(self._answer, self._keys(id)[5:], _head(key))
        if found is None:
            return None
        request, body = found.split(b"\n", 1)
        return Answer(key, request.decode(), body)

    async def delete(self, id: str) -> bool:
        return bool(await self._run(self._delete, self._keys(id), id))

    async def list(self, after: str | None, limit: int) -> Sequence[Session]:
        found: list[Session] = []
        while len(found) < limit:
            start = "-" if after is None else b"(" + after.encode()
            ids = await self._ask(self._redis.zrangebylex(self._keys()[2], start, "+", 0, limit))
            query = self._redis.pipeline(transaction=False)
            names = [cast(bytes, id).decode() for id in ids]
            for name in names:
                query.hmget(self._keys(name)[0], "version", "created", "rest")
            # Those that have expired are in the list until they are cleared away.
            for name, (version, created, rest) in zip(names, await self._ask(query.execute()), strict=True):
                if version is not None:
                    found.append(_session(name, version, created, b"", rest))
            if len(names) < limit:
                break
            after = names[-1]
        return found[:limit]

    async def expire(self, now: float) -> Sequence[str]:
        gone: list[str] = []
        until = _milliseconds(now + TOMBSTONE_SECONDS)
        while page := await self._run(self._expire, self._keys(), _milliseconds(now), until, PAGE):
            gone += [id.decode() for id in page]
        return sorted(gone)

    async def count(self) -> int:
        return int(await self._ask(self._redis.zcount(self._keys()[3], f"({_milliseconds(time.time())}", "+inf")))

    async def size(self) -> int:
        """Of the whole Redis, whoever else uses it."""
        return int((await self._ask(self._redis.info("memory")))["used_memory"])

    async def close(self) -> None:
        await self._redis.aclose()
        await self._pool.aclose()

    async def _run(self, script: AsyncScript, keys: Sequence[str], *arguments: object) -> Any:
        return await self._ask(script(keys=keys, args=cast(Any, arguments)))

    async def _ask(self, answer: Awaitable[_T]) -> _T:
        """Waits for an answer; whatever keeps Redis from giving it becomes StoreUnavailable."""
        try:
            # Connecting, logging in, sending: each has its own limit, and this one is theirs together.
            async with asyncio.timeout(3 * self._wait):
                result = await answer
        except DataError:
            raise  # no fault of Redis's
        except (RedisError, OSError) as error:
            raise self._outage.error(_reason(error), error) from error
        self._outage.over()
        return result


def _reason(error: Exception) -> str:
    """Goes on "the session store ..."."""
    match error:
        case AuthenticationError() | AuthorizationError() | NoPermissionError():
            return "(Redis) does not accept the service's user or password"
        case BusyLoadingError():
            return "(Redis) is starting"
        case RedisTimeoutError() | TimeoutError():
            return "(Redis) does not answer"
        case RedisConnectionError() | OSError():
            return "(Redis) cannot be reached"
        case OutOfMemoryError():
            return "(Redis) has no memory left"
        case ReadOnlyError():
            return "(Redis) is a replica and may not be written to"
        case ResponseError() if str(error).startswith("MISCONF"):
            return "(Redis) cannot write to its disk"
        case _:
            return "(Redis) refuses to answer"


def _head(key: str) -> bytes:
    return f"{len(key)}:{key}\n".encode()


def _milliseconds(time: float) -> int:
    return round(time * 1000)


def _arguments(session: Session) -> tuple[object, ...]:
    """What scripts know of a session: ARGV[1] to ARGV[6]."""
    options = session.options_json()
    rest = {name: getattr(session, name) for name in _REST} | {"options": json.loads(options)}
    packed = json.dumps(rest, separators=(",", ":"))
    return (session.id, session.version, repr(session.created), session.state, packed, _milliseconds(session.expires))


def _session(id: str, version: bytes, created: bytes, state: bytes, rest: bytes) -> Session:
    return Session(id=id, version=int(version), created=float(created), state=state, **json.loads(rest))
