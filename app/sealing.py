"""Sessions as signed text, to be taken elsewhere: HMAC-SHA256 (RFC 2104) over all that is in it.

    base64url("CRTX1" + length of the header (uint16) + header (JSON) + state + signature (32 bytes))

Not encrypted: a state is the memory of what was seen, in numbers that only its model can read.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import CrtError

_MAGIC = b"CRTX1"
_LENGTH = struct.Struct("<H")
_SIGNATURE = hashlib.sha256().digest_size


class BadSignature(CrtError):  # noqa: N818 - named after what is wrong
    """A state was not exported by a service with this key, or was changed since."""

    code = "state_signature"


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is in an exported state."""

    stream: str
    """Id of the stream that it was taken from."""
    segment: int
    model: str
    """Digest of the model that made it."""
    state: bytes


def seal(content: Sealed, key: bytes) -> str:
    """As signed text."""
    header = json.dumps({"stream": content.stream, "segment": content.segment, "model": content.model}).encode()
    body = _MAGIC + _LENGTH.pack(len(header)) + header + content.state
    return base64.urlsafe_b64encode(body + hmac.digest(key, body, "sha256")).decode()


def unseal(text: str, keys: Sequence[bytes]) -> Sealed:
    """keys: any of them may have signed it. Raises BadSignature."""
    try:
        data = base64.b64decode(text.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise BadSignature("this is no exported state: it is not base64url") from error
    body, signature = data[:-_SIGNATURE], data[-_SIGNATURE:]
    signed = any(hmac.compare_digest(hmac.digest(key, body, "sha256"), signature) for key in keys)
    if not signed or not body.startswith(_MAGIC):
        raise BadSignature(
            "the state's signature is not of this service: it was changed, or exported with another key. "
            "Services that take each other's states need the same CRT_STATE_KEY."
        )
    start = len(_MAGIC) + _LENGTH.size
    end = start + _LENGTH.unpack_from(body, len(_MAGIC))[0]
    header = json.loads(body[start:end])
    return Sealed(header["stream"], header["segment"], header["model"], body[end:])


def own_key(file: Path) -> bytes:
    """The key that is kept in this file, made if there is none; only its owner may read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    made = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as out:
        out.write(secrets.token_hex(32).encode())
    try:
        os.link(made, file)  # of several services that begin at once, one is first
    except FileExistsError:
        pass
    finally:
        made.unlink()
    return file.read_bytes()
