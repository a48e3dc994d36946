"""The small backbone in 8-bit integers: a third of the work on a CPU, and the same feature to the bit on every one.

    python -m pipelines.quantize MODEL VIDEO... --output FOLDER

Weights and activations become bytes by fixed ranges (post-training static quantization, arXiv 1712.05877): a weight's of its
channel, an activation's of what it was on some clips. The clips should be of the kind that the model will see; their labels are not
needed. How much accuracy it costs says pipelines.evaluate.

Weights keep to 7 of their 8 bits: processors without 8-bit dot products (VNNI) add up pairs of products in 16 bits, which
would otherwise overflow, and other numbers would come out there. Shapes: T frames, H x W pixels.
"""

import argparse
import contextlib
import copy
import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# ONNX Runtime's wheels send data of its use to their maker, unless told not to before they are loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from tqdm import tqdm

from models import checkpoint
from models.small import SmallBackbone
from models.spec import ClipSpec
from pipelines import command, graphs
from pipelines.clips import clips_of
from pipelines.frames import Pixels
from pipelines.onnx_weights import strip
from pipelines.runtime import halves, look, planes

CLIPS = 400
"""Enough that more change nothing: the ranges are those of pictures, of which each clip has thousands of patches."""
_INTEGERS = ["Conv", "Add", "Relu"]


def quantize(backbone: SmallBackbone, clips: Iterable[Sequence[Pixels] | Pixels]) -> dict[str, bytes]:
    """The graphs that graphs.of_backbone gives, in integers.

    The backbone's weights are taken as a checkpoint stores them at least, in half precision.

    clips: of T frames uint8[H, W, 3]. Raises ValueError without any.
    """
    over, closer = graphs.of_backbone(copy.deepcopy(backbone).half().float()).values()
    first = onnxruntime.InferenceSession(over, providers=["CPUExecutionProvider"])
    glances: list[dict[str, np.ndarray]] = []
    looks: list[dict[str, np.ndarray]] = []
    for clip in clips:
        levels = halves(list(clip))
        glances.append({"half": planes(levels[1])[None]})
        square_13, whole_1W = first.run(None, glances[-1])
        looks.append({"near": look(levels, square_13[0])[None], "square": square_13, "whole": whole_1W})
    if not glances:
        raise ValueError("there is no clip to take ranges from")
    return {"look_over": integers(over, glances), "look_closer": integers(closer, looks)}


def integers(graph: bytes, inputs: Sequence[Mapping[str, np.ndarray]], *, within: str = "") -> bytes:
    """A graph with its convolutions in 8 bits, ranges from these inputs; only what is `within` this part of it, by its nodes' names."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        whole, ready, done = (Path(folder, name) for name in ("whole.onnx", "ready.onnx", "done.onnx"))
        whole.write_bytes(graph)
        quant_pre_process(whole, ready, skip_symbolic_shape=True)
        nodes = [node.name for node in onnx.load(ready).graph.node if within in node.name]
        quantize_static(
            ready, done, _Rows(inputs), quant_format=QuantFormat.QDQ, op_types_to_quantize=_INTEGERS, nodes_to_quantize=nodes,
            per_channel=True, reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        return done.read_bytes()


class _Rows(CalibrationDataReader):
    def __init__(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        self._rows = iter(inputs)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self._rows, None)


def some_of(videos: Sequence[Path], spec: ClipSpec) -> list[Pixels]:
    """At most CLIPS of the videos' clips, the same ones each time, uint8[T, H, W, 3] each. Raises VideoError."""
    clips: list[Pixels] = []
    for video in tqdm(videos, desc="clips", unit="video", disable=not videos):
        clips += list(clips_of(video, spec))
    chosen = np.random.default_rng(0).permutation(len(clips))[:CLIPS]
    return [clips[i] for i in sorted(chosen)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.quantize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model with integers")
    args = parser.parse_args()
    model = checkpoint.load(args.model)
    if not isinstance(model.backbone, SmallBackbone):
        parser.error(f"only the backbone small can be had in integers; {args.model} has {model.backbone.name}")
    made = quantize(model.backbone, some_of(args.videos, model.spec))
    made["classify"] = graphs.classify(model.classifier)
    stripped = {name: strip(graph, model.weights) for name, graph in made.items()}
    print(f"{checkpoint.with_graphs(args.model, args.output, stripped)} in {args.output}")


if __name__ == "__main__":
    command.run(main)
