"""Who writes to a stream, and whether it still lives.

A writer that died without a word is known by its process, or, on another machine, by its lease, which it no longer renews.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path


def process() -> str:
    """This process's name among all: machine, boot, number and start."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip()[:8] if boot.exists() else '-'}/{os.getpid()}/{_start_of(os.getpid())}"


def _start_of(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None if there is none, or none can be seen."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes to a stream."""

    client: str
    """Its token, or one made for this connection."""
    process: str

    def __str__(self) -> str:
        return f"{self.client}@{self.process}"

    @classmethod
    def parse(cls, owner: str) -> "Writer":
        client, _, process = owner.rpartition("@")
        return cls(client, process)

    @property
    def place(self) -> str:
        """Of its service, for people."""
        host, _, rest = self.process.partition("/")
        return f"{host} (process {rest.split('/')[1]})" if rest.count("/") == 2 else host

    def alive(self, lease_until: float | None, now: float) -> bool:
        """Whether it may still write: its lease runs and, as far as that can be seen from this machine, its process is there."""
        ours, theirs = process().split("/"), self.process.split("/")
        if (
            len(theirs) == 4
            and theirs[:2] == ours[:2]
            and theirs[2].isdigit()
            and _start_of(int(theirs[2])) != theirs[3]
        ):
            return False
        return lease_until is not None and now < lease_until
