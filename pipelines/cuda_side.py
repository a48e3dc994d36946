"""Networks on a GPU, where there is one: each always at one batch size, as a CUDA graph, between pinned buffers.

Short batches are filled up, so that every batch takes the same kernels in the same order: what one stream is told does not depend on
who else is served, on a GPU as on a CPU. The backbone computes in bfloat16, the CRT in float32; both give other numbers than the CPU's do
(in the third digit), so a stream that moves between CPU and GPU goes on, but not to the bit.
The backbone has two lanes with a stream each: while one computes, the other copies.
Not covered: several GPUs; the first one is used. CUDA_VISIBLE_DEVICES says which that is.

Shapes: N clips, T frames, H x W pixels, F feature width, B streams, L clips in a segment, M memory width, C labels.
"""

import queue
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from models.base import Backbone, fold_norms
from models.heads import Classifier
from pipelines.frames import Pixels
from pipelines.graphs import Classify

CLIPS = 16
"""In a batch of the backbone."""
SEGMENTS = 32
"""In a batch of the CRT."""
LANES = 2
_WARM_UP = 3
"""Runs before a graph is recorded, in which libraries choose their kernels."""


class Fixed:
    """A function of tensors with so many rows, on a device; on a GPU recorded once and then replayed. Threads take turns."""

    def __init__(
        self, function: Callable[..., Sequence[Tensor]], example: Sequence[np.ndarray], rows: int, device: str
    ) -> None:
        """example: arrays of one row, what the function takes; the values do not matter, other than that it can be run on them."""
        self.rows, self._function = rows, function
        self._turn = threading.Lock()
        cuda = device == "cuda"
        self._given = [torch.from_numpy(np.repeat(one, rows, axis=0)) for one in example]
        if cuda:
            self._given = [one.pin_memory() for one in self._given]
        self._inputs = [one.to(device, copy=True) for one in self._given]
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._graph = None
        with torch.inference_mode():
            if self._stream is None:
                self._outputs = function(*self._inputs)
            else:
                self._stream.wait_stream(torch.cuda.current_stream(device))
                with torch.cuda.stream(self._stream):
                    for _ in range(_WARM_UP):
                        function(*self._inputs)
                self._stream.synchronize()
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, stream=self._stream):
                    self._outputs = function(*self._inputs)
        self._told = [torch.empty(one.shape, dtype=one.dtype, pin_memory=cuda) for one in self._outputs]

    @torch.inference_mode()
    def __call__(self, *arrays: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Arrays of the same number of rows, `rows` at most, to as many rows of what the function gives."""
        count = len(arrays[0])
        if not 0 < count <= self.rows:
            raise ValueError(f"1 to {self.rows} rows at a time, got {count}")
        with self._turn:
            for given, array in zip(self._given, arrays, strict=True):
                whole = given.numpy()
                for place, row in enumerate(array):
                    whole[place] = row
            if self._stream is None or self._graph is None:
                for one, given in zip(self._inputs, self._given, strict=True):
                    one.copy_(given)
                outputs = self._function(*self._inputs)
            else:
                with torch.cuda.stream(self._stream):
                    for one, given in zip(self._inputs, self._given, strict=True):
                        one.copy_(given, non_blocking=True)
                    self._graph.replay()
                    outputs = self._outputs
            return self._fetched(outputs, count)

    def _fetched(self, outputs: Sequence[Tensor], count: int) -> list[np.ndarray]:
        if self._stream is None:
            return [one.float().numpy()[:count].copy() for one in outputs]
        with torch.cuda.stream(self._stream):
            for told, one in zip(self._told, outputs, strict=True):
                told.copy_(one, non_blocking=True)
        self._stream.synchronize()
        return [one.float().numpy()[:count].copy() for one in self._told]


class FixedBackbone:
    """Clips of T frames uint8[H, W, 3] to features float32[N, F]. Threads share the lanes."""

    def __init__(self, backbone: Backbone, device: str) -> None:
        """Takes the backbone over: it is changed for speed, and moves to the device."""
        fold_norms(backbone)
        backbone.eval().to(device)
        spec = backbone.spec
        self._width = spec.feature_width
        example = np.zeros((1, spec.frames, spec.height, spec.width, 3), np.uint8)

        def see(clips_NTHWC: Tensor) -> tuple[Tensor]:
            with torch.autocast(device, torch.bfloat16):
                return (backbone(clips_NTHWC),)

        self._lanes: queue.SimpleQueue[Fixed] = queue.SimpleQueue()
        for _ in range(LANES):
            self._lanes.put(Fixed(see, [example], CLIPS, device))

    def __call__(self, clips: Sequence[Sequence[Pixels]] | np.ndarray) -> np.ndarray:
        found = [np.empty((0, self._width), np.float32)]
        for first in range(0, len(clips), CLIPS):
            lane = self._lanes.get()
            try:
                # Row by row into the pinned buffer; np.stack would copy everything once more.
                found += lane([np.asarray(clip) for clip in clips[first : first + CLIPS]])
            finally:
                self._lanes.put(lane)
        return np.concatenate(found)


class FixedClassifier:
    """A CRT step for any number of streams. Shapes as in graphs.Classify, L always the longest."""

    def __init__(self, classifier: Classifier, segment: int, device: str) -> None:
        """Takes the classifier over: it moves to the device."""
        whole = Classify(classifier.eval().to(device))
        config = classifier.config
        example = [
            np.zeros((1, segment, config.feature_width), np.float32),
            np.zeros((1, config.memory), np.float32),
            np.ones((1, segment), np.bool_),
        ]
        self._step = Fixed(whole, example, SEGMENTS, device)

    def advance(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Segments, memories and masks to scores, those of the clips, and the next memories."""
        parts = [
            self._step(*(one[first : first + SEGMENTS] for one in arrays))
            for first in range(0, len(arrays[0]), SEGMENTS)
        ]
        return [np.concatenate(one) for one in zip(*parts, strict=True)]

    def scores(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The same to scores alone; leaving out the memory would save a GPU nothing."""
        return self.advance(*arrays)[:1]
