"""Making test videos changes nothing for the tests that come after."""

import os

import pytest

from tests.assets import numbered


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_who_makes_a_video_stays_an_ordinary_process(tmp_path, codec):
    """SVT-AV1 makes root's processes real-time ones; a browser that one of them starts then takes the whole machine."""
    numbered(tmp_path / "some.mp4", codec=codec, frames=3)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
