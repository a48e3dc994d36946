"""A client's token that outlives its process, so that who was cut off or started anew may go on with the stream at once.

One for each stream and user of this machine, kept in a file that its process holds locked. A second process finds it locked and
gets a token of its own: it is told that the stream has a writer, instead of pushing it out.
"""

import hashlib
import os
import secrets
import socket
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self


class Token:
    """A context manager: the token is ours until it is left or the process ends, however."""

    def __init__(self, stream: str, *, folder: Path | None = None) -> None:
        """folder is by default crt-stream in $XDG_STATE_HOME or ~/.local/state."""
        self.value = secrets.token_hex(8)
        self._stream, self._folder = stream, folder
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            import fcntl

            folder = self._folder or state_folder()
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A home may be shared by machines.
            name = hashlib.sha256(f"{socket.gethostname()} {self._stream}".encode()).hexdigest()[:24]
            self._file = os.fdopen(os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kept = self._file.read(64).decode("ascii", "replace").strip()
            if len(kept) == len(self.value) and kept.isalnum():
                self.value = kept
            else:
                self._file.seek(0)
                self._file.truncate()
                self._file.write(self.value.encode())
                self._file.flush()
        except (ImportError, OSError, RuntimeError):
            self.close()  # locked, or nothing can be kept here: the token is for this run only
        return self

    def close(self) -> None:
        """Lets others have it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def state_folder() -> Path:
    """Raises RuntimeError for a user without a home."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "crt-stream"
