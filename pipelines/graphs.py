"""Networks as ONNX graphs: what ONNX Runtime runs here (runtime.py), and on devices and in servers elsewhere (export.py).

Shapes: B streams, N clips, T frames, L clips in a segment, F feature width, M memory width, C labels, H x W pixels, S x S pixels
of the closer look.
"""

import copy
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.base import fold_norms
from models.errors import CrtError
from models.heads import Classifier, PerClipClassifier, probabilities
from models.small import GLANCE, SPEC, SmallBackbone
from models.spec import LOOK
from models.writing import GruWriter, NcgruWriter

OPSET = 18


class NotExportable(CrtError):  # noqa: N818 - named after what is wrong
    """A network does something that ONNX has no word for."""

    code = "model_not_exportable"


class LookOver(nn.Module):
    """float32[1, T x 3, H / 2, W / 2] -> square float32[1, 3], whole float32[1, W]; see SmallBackbone.look_over."""

    def __init__(self, backbone: SmallBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, half_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        glance = self.backbone.look_over(half_NCHW)
        return glance.found_B3, glance.whole_BW


class LookCloser(nn.Module):
    """float32[1, T x 3, S, S] and what LookOver gave -> feature float32[1, F]; see SmallBackbone.look_closer."""

    def __init__(self, backbone: SmallBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, near_NCSS: Tensor, square_N3: Tensor, whole_NW: Tensor) -> Tensor:
        return self.backbone.look_closer(near_NCSS, square_N3, whole_NW)[0]


class Classify(nn.Module):
    """features float32[B, L, F], memory float32[B, M], mask bool[B, L], True where a clip is, ->

    scores float32[B, C] of the segments and clip_scores float32[B, L, C], probabilities, and next_memory float32[B, M].
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, features_BLF: Tensor, memory_BM: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.classifier(features_BLF, memory_BM, mask_BL)
        several = self.classifier.config.several
        scores_BC = probabilities(out.logits_BC, several=several)
        return scores_BC, probabilities(out.position_logits_BLC, several=several), out.memory_BM


def of_backbone(backbone: SmallBackbone) -> dict[str, bytes]:
    """look_over and look_closer, their norms folded."""
    backbone = copy.deepcopy(backbone)
    fold_norms(backbone)
    return {"look_over": look_over(backbone), "look_closer": look_closer(backbone)}


def look_over(backbone: SmallBackbone) -> bytes:
    """LookOver, for one clip."""
    half = torch.zeros(1, 3 * SPEC.frames, SPEC.height // 2, SPEC.width // 2)
    return to_onnx(LookOver(backbone), {"half": half}, ("square", "whole"))


def look_closer(backbone: SmallBackbone) -> bytes:
    """LookCloser, for one clip."""
    near = torch.zeros(1, 3 * SPEC.frames, LOOK, LOOK)
    given = {"square": torch.zeros(1, 3), "whole": torch.zeros(1, GLANCE[2] + 2 * GLANCE[3])}
    return to_onnx(LookCloser(backbone), {"near": near, **given}, ("feature",))


def classify(classifier: Classifier) -> bytes:
    """Classify, for segments of classifier.config.segment clips of any number of streams."""
    config = classifier.config
    B, L = 2, config.segment  # two, since of one the exporter might take it that it is always one
    inputs = {
        "features": torch.zeros(B, L, config.feature_width),
        "memory": torch.zeros(B, config.memory),
        "mask": torch.ones(B, L, dtype=torch.bool),
    }
    return to_onnx(Classify(plain(classifier)), inputs, ("scores", "clip_scores", "next_memory"), any_batch=True)


def plain(classifier: Classifier) -> Classifier:
    """The same, with nothing in it that only torch knows: an orthogonal writer is an nn.GRU once it has been trained."""
    if isinstance(classifier, PerClipClassifier) or not isinstance(classifier.crt.writer, NcgruWriter):
        return classifier
    crt = classifier.config.crt
    writer = GruWriter(crt.width, crt.memory, crt.horizon)
    writer.rnn = classifier.crt.writer.rnn.fold()
    classifier = copy.deepcopy(classifier)
    classifier.crt.writer = writer
    return classifier


def to_onnx(
    network: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], *, any_batch: bool = False
) -> bytes:
    """A network that takes arrays of these shapes; with `any_batch`, of any first side. Raises NotExportable."""
    training = {module: module.training for module in network.modules()}
    names = [*inputs, *outputs]
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file, warnings.catch_warnings():
        # The exporter through torch.export takes five times as long, at each start.
        warnings.simplefilter("ignore", DeprecationWarning)
        # That shapes are checked once is meant, and the GRU's first state is an input, as the warning wants it.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1", UserWarning)
        try:
            torch.onnx.export(
                network.eval(), tuple(inputs.values()), file.name, dynamo=False, opset_version=OPSET,
                input_names=list(inputs), output_names=list(outputs),
                dynamic_axes={name: {0: "batch"} for name in names} if any_batch else None,
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            raise NotExportable(str(error).splitlines()[0]) from error
        finally:
            for module, was in training.items():
                module.training = was
        return Path(file.name).read_bytes()
