"""Where sessions are kept. A URL picks the store:

memory://                           this process only; gone with it
sqlite:///var/sessions.db           a file, relative to the working directory; several processes may share it
sqlite:////var/lib/crt/sessions.db  the same, absolute; ?synchronous=normal (see app/sessions/sqlite.py)
redis://[user:password@]host[:6379][/0]     many machines; ?prefix=crt (see app/sessions/redis.py); ?password_file=FILE in place of a password
rediss://...                        the same by TLS; ?ca=FILE for a certificate of one's own
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from app.sessions.base import BadStoreUrl, SessionStore

_FORMS = (
    "memory://, sqlite:///relative/path.db, sqlite:////absolute/path.db, redis://host:6379/0 or rediss://host:6379/0"
)


def open_store(url: str) -> SessionStore:
    """The store that the URL names. Nothing is opened yet: a store that is away is told at its first use.

    Raises BadStoreUrl.
    """
    parts = _split(url)
    match parts.scheme:
        case "memory":
            return _memory(parts)
        case "sqlite":
            return _sqlite(parts)
        case "redis" | "rediss":
            return _redis(parts)
        case _:
            raise BadStoreUrl(f"{without_password(url)!r} names no store of sessions; give {_FORMS}")


def without_password(url: str) -> str:
    """The URL for messages and logs: user and password replaced by ***, whatever else is wrong with it."""
    return re.sub(r"://.*@", "://***@", url, flags=re.DOTALL)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # checked only when asked for
    except ValueError as error:
        # The reason may quote what was taken for the port, and that can be a part of the password.
        raise BadStoreUrl(f"{without_password(url)!r} is no URL: host or port is malformed; give {_FORMS}") from error
    if parts.fragment or "#" in url:
        raise BadStoreUrl(f"{without_password(url)!r} has a '#', which a URL ends at; write it as %23")
    return parts


def _options(parts: SplitResult, **known: str) -> dict[str, str]:
    """The URL's parameters; known says what each may be, for messages."""
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in known:
            might = ", ".join(f"{name}={values}" for name, values in known.items()) or "none"
            raise BadStoreUrl(f"a {parts.scheme}:// URL has no parameter {name!r}; it may have: {might}")
    return options


def _memory(parts: SplitResult) -> SessionStore:
    from app.sessions.memory import MemoryStore

    if parts.netloc or parts.path:
        raise BadStoreUrl("a store in memory has no name: give memory://")
    _options(parts)
    return MemoryStore()


def _sqlite(parts: SplitResult) -> SessionStore:
    from app.sessions.sqlite import SqliteStore

    path = unquote(parts.path)[1:]
    if parts.netloc or not path or path.endswith("/") or "\0" in path or path == ":memory:":
        raise BadStoreUrl(
            f"{without_password(parts.geturl())!r} names no file: give sqlite:///relative/path.db, "
            "sqlite:////absolute/path.db, or memory:// for none"
        )
    synchronous = _options(parts, synchronous="full|normal").get("synchronous", "full")
    if synchronous not in ("full", "normal"):
        raise BadStoreUrl(f"synchronous={synchronous!r}: give full or normal")
    return SqliteStore(Path(path), synchronous=synchronous)


def _redis(parts: SplitResult) -> SessionStore:
    from app.sessions.redis import RedisStore

    if not parts.hostname or not re.fullmatch(r"/?|/\d+", parts.path):
        raise BadStoreUrl(
            f"{without_password(parts.geturl())!r}: give {parts.scheme}://host:6379/0, where 0 is the database's number"
        )
    known = {"prefix": "NAME", "password_file": "FILE"} | ({"ca": "FILE"} if parts.scheme == "rediss" else {})
    options = _options(parts, **known)
    prefix = options.get("prefix", "crt")
    if not re.fullmatch(r"[\w.-]{1,40}", prefix):
        raise BadStoreUrl(f"prefix={prefix!r}: give up to 40 letters, digits, '_', '-' or '.'")
    return RedisStore(
        parts.hostname,
        parts.port or 6379,
        int(parts.path[1:] or 0),
        username=unquote(parts.username) if parts.username else None,
        password=_password(parts, options.get("password_file")),
        tls=parts.scheme == "rediss",
        ca=Path(options["ca"]) if "ca" in options else None,
        prefix=prefix,
    )


def _password(parts: SplitResult, file: str | None) -> str | None:
    """Of the URL, or of a file, as secrets are handed to containers."""
    if file is None:
        return unquote(parts.password) if parts.password else None
    if parts.password:
        raise BadStoreUrl("a redis:// URL has a password or a password_file, not both")
    try:
        password = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadStoreUrl(
            f"password_file={file}: it cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        ) from error
    if not password:
        raise BadStoreUrl(f"password_file={file}: it is empty")
    return password
