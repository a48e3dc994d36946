"""A model as ONNX, with memory in and memory out, for devices and servers that run no Python.

    python -m pipelines.export MODEL [--output FOLDER] [--integers VIDEO...]

    recognizer.onnx        clips uint8[B, L, T, H, W, 3], memory float32[B, M], mask bool[B, L]
                           -> scores float32[B, C], clip_scores float32[B, L, C], next_memory float32[B, M]
    backbone.onnx          clips uint8[N, T, H, W, 3] -> features float32[N, F]
    crt.onnx               features float32[B, L, F], memory, mask -> as recognizer.onnx
    recognizer.int8.onnx   with --integers: recognizer.onnx with the backbone's convolutions in 8 bits
    signature.json         the model's name and digest, labels, whether several may be true at once, rate, sizes, and the first memory

The mask is True where a clip is; absent ones, as in a stream's last segment, may hold any numbers. The next memory goes in with the next
segment: it is all of a stream's state. Equal to torch within 1e-4. recognizer.onnx is the other two in one; with crt.onnx
a clip's features need not be computed again for a segment that is still filling.

The service's own networks in integers (quantize.py) are not used here, as they read parts of pictures that it cuts out itself;
those of recognizer.int8.onnx get their ranges from the given videos. Shapes: B streams, N clips, L clips in a segment, T frames,
H x W pixels, F feature width, M memory width, C labels.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models import checkpoint
from models.base import Backbone, fold_norms
from models.checkpoint import Checkpoint
from pipelines import command, graphs
from pipelines.frames import Pixels
from pipelines.quantize import integers, some_of

RECOGNIZER, BACKBONE, CRT = "recognizer.onnx", "backbone.onnx", "crt.onnx"
INTEGERS, SIGNATURE = "recognizer.int8.onnx", "signature.json"


class _Features(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, clips_NTHWC: Tensor) -> Tensor:
        return self.backbone(clips_NTHWC)


class _Recognizer(nn.Module):
    """All of it: the clips of all streams through the backbone at once, then a CRT step."""

    def __init__(self, model: Checkpoint) -> None:
        super().__init__()
        self.backbone, self.classify = model.backbone, graphs.Classify(graphs.plain(model.classifier))
        self.shape_BLF = (
            -1,
            model.segment,
            model.spec.feature_width,
        )  # a number of streams would become part of the graph

    def forward(self, clips_BLTHWC: Tensor, memory_BM: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features_NF = self.backbone(clips_BLTHWC.flatten(0, 1))
        return self.classify(features_NF.reshape(self.shape_BLF), memory_BM, mask_BL)


def export(model: Checkpoint, folder: Path, *, clips: Sequence[Pixels] = ()) -> list[Path]:
    """Writes the files and returns their paths; changes the model's backbone to one of the same results.

    clips: uint8[T, H, W, 3] each, to take the integers' ranges from; none makes no integers.
    """
    spec, classifier = model.spec, model.classifier
    fold_norms(model.backbone)
    B, L = 2, model.segment
    empty = torch.zeros(B, L, spec.frames, spec.height, spec.width, 3, dtype=torch.uint8)
    state = {"memory": classifier.initial_memory(B), "mask": torch.ones(B, L, dtype=torch.bool)}
    outputs = ("scores", "clip_scores", "next_memory")
    made = {
        RECOGNIZER: graphs.to_onnx(_Recognizer(model), {"clips": empty, **state}, outputs, any_batch=True),
        BACKBONE: graphs.to_onnx(_Features(model.backbone), {"clips": empty[0]}, ("features",), any_batch=True),
        CRT: graphs.classify(classifier),
    }
    if len(clips):
        few = [clips[i : i + L] for i in range(0, len(clips) - L + 1, L)]
        one = {name: value[:1].numpy() for name, value in state.items()}
        made[INTEGERS] = integers(
            made[RECOGNIZER], [{"clips": np.stack(c)[None], **one} for c in few], within="/backbone/"
        )
    signature = {
        "name": model.name, "digest": model.digest, "labels": list(model.labels), "background": model.background,
        "several": classifier.config.several, "segment": L, "memory": model.memory,
        "clip": spec.to_dict() | {"layout": "T, H, W, RGB", "type": "uint8"},
        "first_memory": [float(number) for number in classifier.initial_memory(1)[0]],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in made.items():
        (folder / name).write_bytes(graph)
    (folder / SIGNATURE).write_text(json.dumps(signature, indent=1) + "\n")
    return [folder / name for name in (*made, SIGNATURE)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--output", type=Path, help="folder for the files (default: MODEL/onnx)")
    parser.add_argument(
        "--integers", type=Path, nargs="+", metavar="VIDEO", default=[], help="videos such as it will see"
    )
    args = parser.parse_args()
    model = checkpoint.load(args.model)
    clips = some_of(args.integers, model.spec)
    for path in export(model, args.output or args.model / "onnx", clips=clips):
        print(f"{path.stat().st_size:>12,}  {path}")


if __name__ == "__main__":
    command.run(main)
