"""What the memory did for a segment: the share of attention as torch computes it, and that asking changes nothing."""

import math

import numpy as np
import pytest
import torch

from models import checkpoint, layers, reading
from models.config import ClassifierConfig, CrtConfig
from models.heads import VideoClassifier
from pipelines import graphs
from pipelines.label import BUNDLED, Labelling, describe
from pipelines.recognizer import Recognizer
from pipelines.remembering import Reads
from tests.app.conftest import ROOT

KITCHEN = ROOT / "examples" / "kitchen.mp4"


def classifier(reader: str) -> VideoClassifier:
    torch.manual_seed(3)
    crt = CrtConfig(width=32, memory=24, layers=2, heads=4, hidden=48, reader=reader, dropout=0)
    made = VideoClassifier(ClassifierConfig(feature_width=16, classes=5, crt=crt, dropout=0)).eval()
    for one in made.parameters():
        torch.nn.init.normal_(one, std=0.5)  # far from even attention
    return made


@pytest.mark.parametrize(("reader", "room"), [("cross_attention", reading), ("prepend", layers)])
def test_the_share_is_that_of_torchs_attention(reader, room, monkeypatch):
    """Of clips that are there, over layers and heads."""
    network = classifier(reader)
    features, memory = torch.randn(3, 4, 16), torch.randn(3, 24)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, True, True]])
    found = []
    attend = torch.nn.functional.scaled_dot_product_attention

    class Recorded:
        """torch.nn.functional, and what is divided in it."""

        def __getattr__(self, name):
            return getattr(torch.nn.functional, name)

        @staticmethod
        def scaled_dot_product_attention(query, key, value, attn_mask=None, **more):
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            if attn_mask is not None:
                scores = scores.masked_fill(~attn_mask, -torch.inf)
            found.append(scores.softmax(-1)[..., 0].mean(1))
            return attend(query, key, value, attn_mask=attn_mask, **more)

    monkeypatch.setattr(room, "F", Recorded())
    with torch.no_grad():
        network(features, memory, mask)
    monkeypatch.undo()
    wanted = (torch.stack(found).mean(0) * mask).sum(1) / mask.sum(1)

    read = Reads(graphs.classify(network), reader)(features.numpy(), memory.numpy(), mask.numpy())
    assert len(found) == 2
    np.testing.assert_allclose(read, wanted, atol=1e-5)


def test_a_reader_that_divides_no_attention_has_no_share():
    """`add` gives the memory to each token whole."""
    with pytest.raises(ValueError, match="no attention"):
        Reads(graphs.classify(classifier("add")), "add")


@pytest.fixture(scope="module")
def answers():
    """The bundled example, asked and not asked."""
    recognizer = Recognizer(checkpoint.read(BUNDLED), threads=1)
    found = []
    for memory in (False, True):
        with Labelling(KITCHEN, recognizer, memory=memory) as labelling:
            list(labelling)
        found.append(describe(labelling.result, recognizer, 18))
    return found


def test_asking_changes_no_label(answers):
    """To the bit; and who does not ask is told nothing."""
    silent, asked = ([{k: v for k, v in one.items() if k != "memory"} for one in a["segments"]] for a in answers)
    assert silent == asked
    assert answers[0]["events"] == answers[1]["events"]
    assert not any("memory" in one for one in answers[0]["segments"])


def test_the_drink_is_known_from_the_memory(answers):
    """In the example the hand hides the cup: while he drinks the model reads its memory, and without it would say something else."""
    segments = answers[1]["segments"]
    drinking = [one["memory"] for one in segments if one["labels"][0]["label"] == "Drink.Fromcup"]
    before = [one["memory"] for one in segments if one["end"] <= 6.0][1:]
    assert len(drinking) >= 3
    assert min(one["read"] for one in drinking) > 0.5 > max(one["read"] for one in before)
    assert all(one["without"]["label"] != "Drink.Fromcup" for one in drinking)
    for one in segments:
        assert len(one["memory"]["vector"]) == 512
        assert 0 < one["memory"]["change"] < 2
