"""Text as numbers: word-level corpora in the form of Penn Treebank and WikiText-103, and what the other tasks have in common with them.

A folder holds three files of words between spaces, a sentence or paragraph a line, with `train`, `valid` and `test` in their names
(ptb.train.txt, wiki.train.tokens). Every line ends in `<eos>`. The vocabulary is the training file's, most frequent words first,
as an adaptive softmax wants it; where words were replaced by `<unk>` in training, unknown ones are that. Keeps what it made of a folder
beside the runs: WikiText-103's hundred million words take minutes to read.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from models.errors import CrtError

EOS, UNKNOWN = "<eos>", "<unk>"
PARTS = ("train", "valid", "test")


class BadText(CrtError):  # noqa: N818 - named after what is wrong
    """A folder holds no text that a language model can be trained on."""

    code = "text_bad"


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Three texts over one vocabulary."""

    train: np.ndarray
    """int32[N], each 0 to words - 1."""
    valid: np.ndarray
    test: np.ndarray
    words: tuple[str, ...]
    """What the numbers stand for."""
    scored: frozenset[int] | None = None
    """The words whose likelihood counts: None for all; else a task's answers."""


def read_corpus(folder: Path, cache: Path | None = None) -> Corpus:
    """The three texts of a folder. cache: where to keep what was made of it. Raises BadText."""
    files = {part: find(folder, part) for part in PARTS}
    name = hashlib.sha256(json.dumps([_identity(file) for file in files.values()]).encode()).hexdigest()[:16]
    kept = None if cache is None else cache / f"text-{name}.npz"
    if kept is not None and kept.exists():
        with np.load(kept) as arrays:
            return Corpus(arrays["train"], arrays["valid"], arrays["test"], tuple(str(arrays["words"]).split("\n")))
    counts: Counter[str] = Counter()
    for words in lines(files["train"]):
        counts.update(words)
    if not counts:
        raise BadText(f"{files['train']}: there is no word in it")
    # Words of equal frequency in the order of the alphabet, so that the same text always gives the same numbers.
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    index = {word: number for number, word in enumerate(ordered)}
    train, valid, test = (encode(files[part], index) for part in PARTS)
    corpus = Corpus(train, valid, test, tuple(ordered))
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.part.npz")
        texts = {name: getattr(corpus, name) for name in PARTS}
        np.savez(part, words=np.array("\n".join(ordered)), **texts)
        os.replace(part, kept)
    return corpus


def find(folder: Path, part: str) -> Path:
    """The folder's only file with this part's name in its own. Raises BadText."""
    if not folder.is_dir():
        raise BadText(f"{folder}: no such folder; the text is expected there, or give --data")
    found = sorted(file for file in folder.iterdir() if part in file.name.split(".") and file.is_file())
    if len(found) != 1:
        raise BadText(
            f"{folder}: one file named like ptb.{part}.txt or wiki.{part}.tokens is wanted, "
            f"got {', '.join(file.name for file in found) or 'none'}"
        )
    return found[0]


def lines(file: Path) -> Iterator[list[str]]:
    """Each line's words and <eos>, with a progress bar where it takes long."""
    size = file.stat().st_size
    with (
        file.open(encoding="utf-8") as text,
        tqdm(total=size, unit="B", unit_scale=True, desc=file.name, disable=size < 50_000_000) as bar,
    ):
        try:
            for line in text:
                bar.update(len(line))
                yield [*line.split(), EOS]
        except UnicodeDecodeError as error:
            raise BadText(f"{file}: not UTF-8 text: {error}") from error


def encode(file: Path, index: dict[str, int]) -> np.ndarray:
    """int32[N]. Raises BadText for a word that is not in the vocabulary, where that has no <unk>."""
    numbers: list[np.ndarray] = []
    unknown = index.get(UNKNOWN)
    for number, words in enumerate(lines(file), 1):
        try:
            known = [index[word] for word in words] if unknown is None else [index.get(word, unknown) for word in words]
        except KeyError as error:
            raise BadText(
                f"{file}, line {number}: {error} is not in the training text, which has no {UNKNOWN}"
            ) from error
        numbers.append(np.array(known, np.int32))
    return np.concatenate(numbers) if numbers else np.zeros(0, np.int32)


def _identity(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file.resolve()), status.st_size, status.st_mtime_ns
