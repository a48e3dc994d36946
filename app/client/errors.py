"""What ends a client's stream for good; whatever is worth another attempt is none of these.

CrtError
  ClientError            client_error
    BadSource            source_bad              no frames, or no more, can be had from there
    BadAddress           address_bad             what answers there is no service of ours
    BadKeyFile           key_file_bad            the file with the key cannot be read, or has none
    BadKey               key_bad                 a key that no request can carry
    Unreachable          service_unreachable     no service could be used for as long as the client was to be patient
    Lost                 segments_lost           segments were made of which this client was never told
    Refused              the service's own code
      RequestRefused     4400                    what was sent or asked for is wrong
      StreamUnknown      4404                    the stream was deleted meanwhile
      StreamOwned        4409                    another client writes to it, or has taken it over
      StreamExpired      4410
      ModelChanged       4412                    the stream was made with another model
      FrameTooLarge      1009                    a frame is larger than the service takes
"""

from models.errors import CrtError


class ClientError(CrtError):
    """Something ends the stream for this client."""

    code = "client_error"


class BadSource(ClientError):  # noqa: N818 - named after what is wrong, as all below
    """No frames, or no more, can be had from there."""

    code = "source_bad"


class BadAddress(ClientError):  # noqa: N818
    """What answers there is no service of ours."""

    code = "address_bad"


class BadKeyFile(ClientError):  # noqa: N818
    """The file with the key cannot be read, or has none."""

    code = "key_file_bad"


class BadKey(ClientError):  # noqa: N818
    """A key that no request can carry."""

    code = "key_bad"


class Unreachable(ClientError):  # noqa: N818
    """No service could be used for as long as the client was to be patient."""

    code = "service_unreachable"


class Lost(ClientError):  # noqa: N818
    """Segments were made that this client was never told of."""

    code = "segments_lost"


class Refused(ClientError):  # noqa: N818
    """The service will not have this stream from this client; `code` is the service's, such as `parameter_bad`."""

    code = "stream_refused"

    def __init__(self, code: str, detail: str, close: int | None = None) -> None:
        """close is the code with which the connection was closed, if that was said."""
        super().__init__(detail)
        self.code, self.detail, self.close = code, detail, close


class RequestRefused(Refused):
    """What was sent or asked for is wrong."""


class StreamUnknown(Refused):
    """The stream was deleted meanwhile."""


class StreamOwned(Refused):
    """Another client writes to the stream, or has taken it over."""


class StreamExpired(Refused):
    """The stream has come to the end of its time."""


class ModelChanged(Refused):
    """The stream was made with another model."""


class FrameTooLarge(Refused):
    """A frame is larger than the service takes."""


_OF_CLOSE: dict[int, type[Refused]] = {
    1009: FrameTooLarge, 4400: RequestRefused, 4404: StreamUnknown, 4409: StreamOwned, 4410: StreamExpired, 4412: ModelChanged,
}  # fmt: skip
_OF_CODE = {
    "frame_malformed": 4400, "message_malformed": 4400, "parameter_bad": 4400, "session_unknown": 4404, "stream_owned": 4409,
    "session_conflict": 4409, "session_expired": 4410, "model_changed": 4412,
}  # fmt: skip
_FOR_GOOD = {1002, 1003, 1007, 1008, 1010}
"""Close codes of WebSocket itself that say that the other side cannot do with us."""
_NAMES = {
    1009: "frame_too_large",
    4404: "session_unknown",
    4409: "stream_owned",
    4410: "session_expired",
    4412: "model_changed",
}
AGAIN = {"store_unavailable", "engine_unavailable", "busy", "internal", "service_moves", "reader_slow"}
"""The service's errors after which to come back."""


def refusal(close: int | None, code: str | None, detail: str) -> Refused | None:
    """The error of a connection that ended so; None if it is worth another one.

    close is the close code, if one came; code that of the error that was told before, else the close frame's reason.
    """
    if code in AGAIN or close == 4408:
        return None
    meant = _OF_CODE.get(code or "", close)
    if meant is None or not (meant in _OF_CLOSE or meant in _FOR_GOOD or 4400 <= meant < 4500):
        return None
    kind = _OF_CLOSE.get(meant, Refused)
    return kind(code or _NAMES.get(meant, kind.code), detail or f"the connection was closed with {meant}", close)
