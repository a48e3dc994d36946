"""Other processes, seen from a test: they may end between being listed and being asked."""

import contextlib

import psutil


def children(of: psutil.Process, module: str = "", *, recursive: bool = False) -> list[psutil.Process]:
    """Those that run, and run this module. None at all where `of` has ended itself."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in of.children(recursive=recursive):
            with contextlib.suppress(psutil.NoSuchProcess):  # which a zombie is, too
                if one.status() != psutil.STATUS_ZOMBIE and (not module or module in one.cmdline()):
                    found.append(one)
    return found


def kill(of: psutil.Process) -> None:
    """It and all below it."""
    for one in (*children(of, recursive=True), of):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
