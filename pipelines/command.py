"""What the commands share: mistakes of the user's are told in one line, and numbers are checked where they are given."""

import argparse
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from models.errors import CrtError


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a command and ends the process: with 0, or with 1 and one line, `code: what was wrong`, for a CrtError."""
    try:
        main()
    except CrtError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is wanted, got {text!r}")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """Width and height as in 320x240, even and at least 16, for argparse."""
    found = re.fullmatch(r"([0-9]{2,4})x([0-9]{2,4})", text)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if min(width, height) < 16 or width % 2 or height % 2:
        raise argparse.ArgumentTypeError(f"a size like 320x240 is wanted, even and at least 16 each, got {text!r}")
    return width, height


def numbers(text: str) -> tuple[int, int, int, int]:
    """Person, room, take and camera as in 2280,2280,0,2, for argparse."""
    found = re.fullmatch(r"([0-9]{1,4}),([0-9]{1,4}),([0-9]{1,2}),([1-7])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"person,room,take,camera like 2280,2280,0,2 is wanted, got {text!r}")
    return int(found[1]), int(found[2]), int(found[3]), int(found[4])
