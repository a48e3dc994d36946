"""Videos for the tests of the data's way: made once in a run of the tests; see tests/assets.py."""

from collections.abc import Callable
from pathlib import Path

import av
import pytest

from tests.assets import VIDEOS, Truth, make


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that make() fills."""
    av.logging.set_libav_level(av.logging.PANIC)
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session")
def named(videos: Path) -> Callable[[str], Truth]:
    """One of the usual videos, by its file name."""
    recipes = {recipe.name: recipe for recipe in VIDEOS}
    return lambda name: make(recipes[name], videos)
