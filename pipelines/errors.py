"""Errors of the data's way, each with a stable `code`; messages name what was wrong and what would be right.

CrtError                  internal                 (models/errors.py)
  VideoError              video_error              something is wrong with the video that was sent
    UnreadableVideo       video_unreadable         there is no such file, or it may not be read
    EmptyVideo            video_empty              no bytes at all
    NotAVideo             video_not_a_video        no container that is accepted: text, a playlist, a picture, noise
    UnsupportedVideo      video_unsupported        a video, but of a codec that no decoder here knows
    NoVideoStream         video_no_video_stream    a container without pictures, as of audio only
    CorruptVideo          video_corrupt            no frame can be decoded
    DecoderDied           video_decoder_died       the worker that decoded it crashed or was killed
    OverBudget            video_over_budget        decoding it would cost, or did cost, more than is granted
      VideoTooLong        video_too_long           more seconds of video than the budget grants, claimed or found
      TooManyFrames       video_too_many_frames    more frames, claimed or found
      VideoTooLarge       video_too_large          more pixels in a frame
      DecodeTimeout       video_timeout            more time
      DecodeMemory        video_out_of_memory      more memory
  DecoderUnavailable      decoder_unavailable      no worker can be started: this machine's fault, not the video's
  EngineUnavailable       engine_unavailable       the cluster that the networks run on does not answer, or cannot be asked from here
  StreamError             stream_error             something is wrong with a stream of frames
"""

from models.errors import CrtError


class VideoError(CrtError):
    """Something is wrong with the video that was sent."""

    code = "video_error"


class UnreadableVideo(VideoError):  # noqa: N818 - named after what is wrong, as all below
    """There is no such file, or it may not be read."""

    code = "video_unreadable"


class EmptyVideo(VideoError):  # noqa: N818
    """The file holds no bytes."""

    code = "video_empty"


class NotAVideo(VideoError):  # noqa: N818
    """The first bytes are of no container that is accepted."""

    code = "video_not_a_video"


class UnsupportedVideo(VideoError):  # noqa: N818
    """A video in a codec that no decoder here knows."""

    code = "video_unsupported"


class NoVideoStream(VideoError):  # noqa: N818
    """A container without pictures, as of audio only."""

    code = "video_no_video_stream"


class CorruptVideo(VideoError):  # noqa: N818
    """No frame can be decoded."""

    code = "video_corrupt"


class DecoderDied(VideoError):  # noqa: N818
    """The worker that decoded the video crashed or was killed; others are not affected."""

    code = "video_decoder_died"


class OverBudget(VideoError):  # noqa: N818
    """Decoding costs more than is granted."""

    code = "video_over_budget"


class VideoTooLong(OverBudget):
    """More seconds of video than the budget grants, claimed by the header or found."""

    code = "video_too_long"


class TooManyFrames(OverBudget):
    """More frames than the budget grants, claimed by the header or found."""

    code = "video_too_many_frames"


class VideoTooLarge(OverBudget):
    """More pixels in a frame than the budget grants."""

    code = "video_too_large"


class DecodeTimeout(OverBudget):
    """Decoding took longer than the budget grants."""

    code = "video_timeout"


class DecodeMemory(OverBudget):
    """Decoding needed more memory than the budget grants."""

    code = "video_out_of_memory"


class DecoderUnavailable(CrtError):  # noqa: N818
    """No worker can be started: this machine's fault, not the video's."""

    code = "decoder_unavailable"


class EngineUnavailable(CrtError):  # noqa: N818
    """The cluster that the networks run on does not answer, or cannot be asked from here; nothing is lost, and the same may be asked again."""

    code = "engine_unavailable"


class StreamError(CrtError):
    """Something is wrong with a stream of frames."""

    code = "stream_error"
