"""The CRT as a language model: words embedded, the same core, a softmax over words. A thin head beside the video classifier's."""

import torch
from torch import Tensor, nn

from models.config import CrtConfig
from models.crt import CompactRecurrentTransformer
from models.vocabulary import make_vocabulary

# Shapes: B streams, L words in a segment, D width, M memory width.


class LanguageModel(nn.Module):
    """A causal CRT over words; with the writer `none`, a plain Transformer that sees its segment only.

    words: how many there are. cutoffs: of an adaptive softmax, and tied: see models/vocabulary.py. Raises ValueError for a core that is
    not causal, which would see the words that it is to foretell.
    """

    def __init__(self, words: int, crt: CrtConfig, cutoffs: tuple[int, ...] = (), *, tied: bool = True) -> None:
        super().__init__()
        if not crt.causal:
            raise ValueError("a language model's CRT has to be causal")
        self.vocabulary = make_vocabulary(words, crt.width, cutoffs, tied=tied)
        self.crt = CompactRecurrentTransformer(crt)
        self.dropout = nn.Dropout(crt.dropout)

    def initial_state(self, batch: int) -> Tensor:
        """The learned memory with which each of `batch` streams begins, float[B, M]."""
        return self.crt.initial_memory(batch)

    def forward(self, words_BL: Tensor, memory_BM: Tensor) -> tuple[Tensor, Tensor]:
        """int64[B, L] -> outputs float[B, L, D], for vocabulary.loss, and the next segment's memory, float32."""
        outputs_BLD, memory_BM = self.crt(self.vocabulary.embed(words_BL), memory_BM)
        return self.dropout(outputs_BLD), memory_BM.to(torch.float32)
