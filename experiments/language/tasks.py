"""Two further tasks in the form of a text: Python's own sources by the byte, and sums whose operands lie far back.

Sums: a stream of noise, in which the registers a and b are given digits (`a 7`), in any order and some of them anew, and asked for their
sum, 0 to 18 (`? 11`). Only the answers count. Between two questions both are given anew, so that no earlier answer helps: who does
not know both operands can but guess. Between events lie 1 to 160 letters of noise, evenly on a log scale; an operand that lies further
back than a segment only a memory can tell.
"""

import hashlib
import math
import sysconfig
from pathlib import Path

import numpy as np

from experiments.language.text import BadText, Corpus

LETTERS = "abcdefghijklmnopqrst"
SUMS = (*"0123456789", "a=", "b=", "?", *(f"={number}" for number in range(19)), *LETTERS)
"""Symbols of the sums: digits given, registers, the question, answers, noise."""
ANSWERS = frozenset(range(13, 32))
NOISE = 32
LONGEST = 160
"""Of a stretch of noise, in symbols."""


def python_sources(folder: Path | None = None, limit: int = 4_000_000) -> Corpus:
    """The standard library's modules as bytes: of every twenty modules one for validation, one for test, whole and by name.

    folder: of sources, this Python's own where None. limit: bytes of training. Tests, tools and installed packages are left out.
    Raises BadText where there are no sources.
    """
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    texts: dict[str, list[bytes]] = {"train": [], "valid": [], "test": []}
    # By a hash of the name, so that what is held out does not change with the modules beside it.
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")}
    skipped = {
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "lib2to3",
        "config",
        "pydoc_data",
        "encodings",
    }
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if skipped & set(name.split("/")):
            continue
        place = hashlib.sha256(name.encode()).digest()[0] % 20
        texts["valid" if place == 0 else "test" if place == 1 else "train"].append(files[name].read_bytes())
    made = {part: np.frombuffer(b"\n\x0c\n".join(all_), np.uint8).astype(np.int32) for part, all_ in texts.items()}
    if not all(len(text) for text in made.values()):
        raise BadText(f"{folder}: too few Python sources: {', '.join(f'{k} {len(v)}' for k, v in made.items())} bytes")
    names = tuple(f"{byte:02x}" for byte in range(256))
    return Corpus(made["train"][:limit], made["valid"][: limit // 10], made["test"][: limit // 10], names)


def sums(train: int = 2_000_000, rest: int = 400_000) -> Corpus:
    """So many symbols for training, and so many each for validation and test; always the same."""
    first, second, third = (sum_text(n, np.random.default_rng([505, k])) for k, n in enumerate((train, rest, rest)))
    return Corpus(first, second, third, SUMS, ANSWERS)


def sum_text(length: int, rng: np.random.Generator) -> np.ndarray:
    """int32[length]."""
    pieces: list[np.ndarray] = []
    registers: list[int | None] = [None, None]
    """Since the last question."""
    total = 0
    while total < length:
        noise = rng.integers(NOISE, len(SUMS), size=int(np.exp(rng.uniform(0, np.log(LONGEST)))), dtype=np.int32)
        a, b = registers
        if a is not None and b is not None and rng.random() < 0.75:
            event = [12, 13 + a + b]
            registers = [None, None]
        else:
            place, digit = int(rng.integers(2)), int(rng.integers(10))
            registers[place] = digit
            event = [10 + place, digit]
        pieces += [noise, np.array(event, np.int32)]
        total += len(noise) + 2
    return np.concatenate(pieces)[:length]


def distances(text: np.ndarray) -> np.ndarray:
    """How many symbols before each answer its younger and its older operand were given, int64[answers, 2]."""
    found: list[list[int]] = []
    given = [0, 0]
    for place in np.flatnonzero((text >= 10) & (text < NOISE)):
        symbol = int(text[place])
        if symbol < 12:
            given[symbol - 10] = int(place) + 1
        elif symbol > 12:
            found.append([int(place) - max(given), int(place) - min(given)])
    return np.array(found, np.int64).reshape(-1, 2)


def least_perplexity(text: np.ndarray, reach: int) -> float:
    """Of the answers, for one who knows all that lies up to `reach` symbols before each, and nothing older."""
    of_sum = np.convolve(np.full(10, 0.1), np.full(10, 0.1))
    # Of a sum of which none, one or both operands are known.
    surprise = np.array([-(of_sum * np.log(of_sum)).sum(), math.log(10), 0.0])
    return math.exp(float(surprise[(distances(text) <= reach).sum(1)].mean()))
