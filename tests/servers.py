"""Programs that tests start, installed by scripts/servers.sh."""

import shutil

import pytest


def needs(*programs: str) -> None:
    """Skips the test, by the name of what it lacks."""
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed (scripts/servers.sh)")
