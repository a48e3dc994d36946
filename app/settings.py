"""Every CRT_* environment variable, documented where it is defined.

What is secret may be a file in place of a variable: of a setting's name in small letters, in the folder CRT_SECRETS.
"""

import difflib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from models.errors import CrtError
from pipelines.label import BUNDLED
from pipelines.video import Budget

PREFIX = "CRT_"
OTHERS = {"CRT_SERVER", "CRT_CLIENT_KEY", "CRT_CAMERA"}
"""Of the same prefix, and not the service's: where its client looks for it, the client's key and its camera."""
_UNTOLD = {"sessions", "state_key", "api_keys"}
"""Settings whose values no message repeats."""


class BadSetting(CrtError):  # noqa: N818 - named after what is wrong
    """An environment variable is unknown or has an impossible value."""

    code = "setting_bad"


class Settings(BaseSettings):
    """The service's settings. Use `Settings.read()`, which also finds misspelt names."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, use_attribute_docstrings=True)

    model: str = str(BUNDLED)
    """Folder of the model to serve (model.safetensors and config.json), or kinetics400:NAME, see models/kinetics.py."""
    threads: Annotated[int, Field(ge=1, le=256)] = Field(default_factory=lambda: cores())
    """Processor cores that the networks may use; by default all that the process may run on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run: auto is a GPU where PyTorch can use one, else the CPU."""
    engine: Annotated[str, Field(pattern=r"^(local|ray:[^/\s:]+:\d{1,5})$")] = "local"
    """Where the networks run: local is in this process and its own, ray:HOST:PORT on the Ray cluster there (docker/ray)."""
    engine_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 60.0
    """How long a cluster that does not answer is tried again before a client is sent away, in seconds."""
    videos: Annotated[int, Field(ge=1, le=256)] = Field(default_factory=lambda: cores())
    """Videos decoded and labelled at the same time, others wait; by default as many as cores."""
    streams: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Live streams at most; fewer where they take up more of the cores than they may."""
    streams_share: Annotated[float, Field(ge=0, le=4, allow_inf_nan=False)] = 0.9
    """Share of the cores that live streams may take up, as measured; one more is refused with 503. 0: whatever they take up."""
    waiting: Annotated[int, Field(ge=0, le=10_000)] = 64
    """Uploads that may wait for their turn; one more is refused with 503."""
    upload_bytes: Annotated[int, Field(ge=1)] = 4 << 30
    """Largest upload, in bytes."""
    upload_idle_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 30.0
    """Longest that an upload may pause and that a request's head may take, in seconds; after that time an upload must also have come at
    upload_rate on average."""
    upload_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 16_384.0
    """Least average speed of an upload, in bytes a second: a slower one would hold its place for others too long."""
    answer_idle_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 30.0
    """Longest that a client may leave an answer that comes in pieces unread, in seconds."""
    spool: Path = Field(default_factory=lambda: spool())
    """Folder for uploads while they are being labelled; /var/tmp by default, as /tmp may be in memory."""
    video_seconds: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)] = Budget().duration
    """Longest video, in seconds of presentation time."""
    video_frames: Annotated[int, Field(gt=0, le=1 << 40)] = Budget().frames
    """Most frames of a video."""
    decode_seconds: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = Budget().seconds
    """Longest that the service waits for a video's frames altogether, in seconds of wall clock."""
    decode_bytes: Annotated[int, Field(gt=0, le=1 << 46)] = Budget().memory
    """Memory that decoding one video may take, in bytes."""
    sessions: str = "sqlite:///var/sessions.db"
    """Where streams' sessions are kept: memory://, sqlite:///path or redis://host:6379/0, see app/sessions."""
    store_seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 30.0
    """How long a store that is away is tried again before a client is sent away, in seconds."""
    state_key: Annotated[str, Field(min_length=16, max_length=4096)] | None = None
    """Signs exported states; services that take each other's need the same. Of several, a line each, the first signs and all are
    accepted. By default one is made, and kept as state.key beside the sessions of sqlite://; with another store it ends with the process."""
    api_keys: Annotated[str, Field(max_length=65_536)] | None = None
    """Keys, a line each, one of which every request to /v1 must carry; see app/security.py. By default none is asked for."""
    secrets: Path = Path("/run/secrets")
    """Folder in which settings may be files, such as crt_state_key and crt_api_keys; a variable goes before a file."""
    drain_seconds: Annotated[int, Field(ge=0, le=86_400)] = 3
    """Longest that requests may still take after SIGTERM, in seconds; streams are told at once to go on elsewhere."""
    followers: Annotated[int, Field(ge=0, le=100_000)] = 100
    """Followers at most: those who watch streams that others write to."""
    credit: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Frames that a WebSocket's client may have on the way."""
    live_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 2.0
    """Longest that a frame may have waited when its turn comes, in seconds, under the policy live; else it is dropped."""
    frame_bytes: Annotated[int, Field(ge=1024, le=1 << 28)] = 4 << 20
    """Largest message on a WebSocket, in bytes."""
    inbox_bytes: Annotated[int, Field(ge=1024, le=1 << 32)] = 16 << 20
    """Frames that wait, of one WebSocket, in bytes."""
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """debug, info, warning or error."""
    log_format: Literal["text", "json"] = "text"
    """How log lines look: text, or json with a line for each."""
    traces: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] | None = None
    """OpenTelemetry collector to which spans go by OTLP over HTTP, such as http://collector:4318; by default none are made."""

    @field_validator("state_key", "api_keys")
    @classmethod
    def _long_enough(cls, value: str | None) -> str | None:
        for line in (value or "").splitlines():
            if line.strip() and len(line.strip()) < 16:
                raise ValueError("each key needs 16 characters at least; `openssl rand -hex 32` makes one")
        return value

    @property
    def state_keys(self) -> list[bytes]:
        """Those that are set: the first one signs."""
        return [line.strip().encode() for line in (self.state_key or "").splitlines() if line.strip()]

    @property
    def budget(self) -> Budget:
        """What decoding one upload may cost."""
        return Budget(
            seconds=self.decode_seconds, memory=self.decode_bytes, duration=self.video_seconds, frames=self.video_frames
        )

    @classmethod
    def read(cls) -> Self:
        """The settings that the environment gives. Raises BadSetting for a wrong value and for a name that means nothing."""
        names = {PREFIX + name.upper() for name in cls.model_fields}
        for name in os.environ:
            if name.upper().startswith(PREFIX) and name.upper() not in names | OTHERS:
                near = difflib.get_close_matches(name.upper(), names, 1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(names))}"
                raise BadSetting(f"there is no setting {name}; {hint}")
        folder = Path(os.environ.get(f"{PREFIX}SECRETS", str(cls.model_fields["secrets"].default)))
        for file in folder.glob(f"{PREFIX.lower()}*") if folder.is_dir() else ():
            if file.name.upper() not in names:
                near = difflib.get_close_matches(file.name.upper(), names, 1)
                hint = f"did you mean {near[0].lower()}?" if near else "see app/settings.py"
                raise BadSetting(f"{file}: there is no setting {file.name}; {hint}")
        try:
            settings = cls(_secrets_dir=folder if folder.is_dir() else None)  # type: ignore[call-arg]
            with tempfile.TemporaryFile(dir=settings.spool):
                return settings
        except OSError as error:
            raise BadSetting(
                f"uploads cannot be written to {settings.spool}: {error.strerror}. "
                f"Give {PREFIX}SPOOL a folder that exists and can be written to."
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            setting = str(first["loc"][0]) if first["loc"] else ""
            given = "" if setting in _UNTOLD else f"={first.get('input')!r}"
            # Of a secret not even the cause may be told.
            raise BadSetting(f"{PREFIX}{setting.upper()}{given}: {first['msg']}") from (
                None if setting in _UNTOLD else error
            )


def spool() -> Path:
    """A folder on disk for uploads."""
    lasting = Path("/var/tmp")
    return lasting if os.access(lasting, os.W_OK) else Path(tempfile.gettempdir())


def cores(limits: Path = Path("/sys/fs/cgroup")) -> int:
    """Processor cores that this process may use: those it may run on, or what its container is limited to, rounded up."""
    those = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (limits / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return those
    return those if quota == "max" else max(1, min(those, -(-int(quota) // int(period))))
