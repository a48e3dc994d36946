"""Texts as numbers: Penn Treebank's true counts, WikiText's form, Python's sources and sums."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from experiments.language.tasks import ANSWERS, SUMS, distances, least_perplexity, python_sources, sums
from experiments.language.text import BadText, read_corpus

PENN = Path("../shared/text")
WIKI = {
    "wiki.train.tokens": " \n = Robert <unk> = \n \n Robert is an English film , television and theatre actor . \n Robert is <unk> . \n",
    "wiki.valid.tokens": " \n = Homarus = \n Robert is an actor . \n",
    "wiki.test.tokens": " = Robert = \n",
}
"""A small text in WikiText-103's form: headings between equals signs, empty lines, <unk> in place of rare words."""


def folder_of(files: dict[str, str], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.skipif(not PENN.is_dir(), reason="Penn Treebank is not at ../shared/text")
def test_penn_treebank_has_its_known_counts():
    """Words as the treebank's readers count them, and tokens with one <eos> a line."""
    corpus = read_corpus(PENN)
    assert len(corpus.words) == 10_000
    assert len(corpus.train) == 929_589
    words = [
        len(text) - int((text == corpus.words.index("<eos>")).sum())
        for text in (corpus.train, corpus.valid, corpus.test)
    ]
    assert words == [887_521, 70_390, 78_669]
    assert (corpus.words[0], corpus.words[1]) == ("the", "<unk>")
    start = " ".join(corpus.words[number] for number in corpus.train[24:42])
    assert start == "<eos> pierre <unk> N years old will join the board as a nonexecutive director nov. N <eos> mr."


def test_wikitext_is_read_line_by_line_most_frequent_words_first(tmp_path: Path):
    """Empty lines count; a word that training lacks is <unk>."""
    corpus = read_corpus(folder_of(WIKI, tmp_path / "wiki"))
    assert corpus.words[0] == "<eos>"
    counts = np.bincount(corpus.train, minlength=len(corpus.words))
    assert (np.diff(counts) <= 0).all()
    said = [corpus.words[number] for number in corpus.valid]
    assert said == ["<eos>", "=", "<unk>", "=", "<eos>", "Robert", "is", "an", "actor", ".", "<eos>"]
    assert len(corpus.train) == sum(len(line.split()) + 1 for line in WIKI["wiki.train.tokens"].splitlines())


def test_what_was_made_of_a_folder_is_kept_until_it_changes(tmp_path: Path):
    """The second reading is from the cache, and gives the same."""
    folder = folder_of(WIKI, tmp_path / "wiki")
    first = read_corpus(folder, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    again = read_corpus(folder, tmp_path / "cache")
    assert again.words == first.words
    assert np.array_equal(again.test, first.test)
    assert again.train.dtype == first.train.dtype == np.int32
    (folder / "wiki.test.tokens").write_text("Robert Robert\n")
    assert len(read_corpus(folder, tmp_path / "cache").test) == 3
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert kept.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wiki.train.tokens": "a b\n", "wiki.valid.tokens": "a\na c\n"}, "wiki.valid.tokens, line 2: 'c'.*no <unk>"),
        ({"wiki.train.tokens": ""}, "no word"),
        ({"other.test.txt": "a\n"}, "got other.test.txt, wiki.test.tokens"),
    ],
)
def test_text_that_cannot_be_used_is_told(tmp_path: Path, change: dict[str, str], message: str):
    """With file and line, and what would be right."""
    with pytest.raises(BadText, match=message):
        read_corpus(folder_of({**WIKI, **change}, tmp_path / "wiki"))
    with pytest.raises(BadText, match="no such folder"):
        read_corpus(tmp_path / "nowhere")


def test_python_sources_hold_out_whole_modules(tmp_path: Path):
    """Each file is in one part only, the same one whatever else is there; tests and packages are left out."""
    for number in range(80):
        (tmp_path / f"module{number}.py").write_text(f"# number {number};\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_it.py").write_text("# number 100;\n")
    first = python_sources(tmp_path)
    texts = [bytes(text.astype(np.uint8)).decode() for text in (first.train, first.valid, first.test)]
    for number in range(80):
        assert sum(f"number {number};" in text for text in texts) == 1
    assert "number 100;" not in "".join(texts)
    (tmp_path / "another.py").write_text("pass\n")
    moved = bytes(python_sources(tmp_path).valid.astype(np.uint8)).decode()
    assert texts[1].replace("\x0c\n", "").splitlines()[0] in moved
    with pytest.raises(BadText, match="too few"):
        python_sources(tmp_path / "test")


def test_this_pythons_own_sources_are_enough():
    """Four million bytes of training, and whole modules held out."""
    corpus = python_sources()
    assert len(corpus.train) == 4_000_000
    assert min(len(corpus.valid), len(corpus.test)) > 100_000
    assert b"def " in bytes(corpus.test[:50_000].astype(np.uint8))


def test_sums_are_right_and_their_operands_lie_far_back():
    """Read again symbol by symbol, as one would by hand."""
    corpus = sums(train=50_000, rest=10_000)
    registers, asked, right = dict[str, int](), 0, 0
    said = [SUMS[number] for number in corpus.train]
    for before, symbol in pairwise(said):
        if before in ("a=", "b="):
            registers[before] = int(symbol)
        if before == "?":
            asked += 1
            right += symbol == f"={registers.pop('a=') + registers.pop('b=')}"  # both given since the last question
    assert right == asked > 300
    assert corpus.scored == ANSWERS
    assert set(corpus.train.tolist()) == set(range(len(SUMS)))
    assert corpus.scored == {number for number, name in enumerate(SUMS) if name[0] == "="}
    test = sums(train=10).test  # as the README tells
    assert [round(100 * np.mean(distances(test)[:, 1] > n), 1) for n in (17, 85, 136)] == [80.6, 34.0, 15.8]
    assert len(distances(test)) == 2799
    assert [round(least_perplexity(test, n), 1) for n in (0, 17, 136, 1000)] == [16.3, 8.0, 1.5, 1.0]
    assert not np.array_equal(corpus.valid, corpus.test)
    assert np.array_equal(corpus.train, sums(train=50_000, rest=10_000).train)
