"""Where the networks run. What a GPU alone can show needs one; how batches are cut and filled up is the same on a CPU."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from models import checkpoint
from pipelines import device
from pipelines.cuda_side import CLIPS, SEGMENTS, Fixed, FixedBackbone, FixedClassifier
from pipelines.device import DeviceMissing, pick
from pipelines.label import BUNDLED
from pipelines.recognizer import Recognizer

ROOT = Path(__file__).parents[2]
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
places = pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=gpu)])


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """More than a batch, uint8[N, T, H, W, 3]."""
    spec = checkpoint.read(BUNDLED).spec
    shape = (CLIPS + 3, spec.frames, spec.height, spec.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def segments() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """More than a batch: features, memories, masks."""
    model, rng = checkpoint.read(BUNDLED), np.random.default_rng(1)
    B = SEGMENTS + 5
    features_BLF = rng.normal(size=(B, model.segment, model.spec.feature_width)).astype(np.float32)
    return features_BLF, rng.normal(size=(B, model.memory)).astype(np.float32), rng.random((B, model.segment)) < 0.7


@no_gpu
def test_without_a_gpu_auto_is_the_cpu_and_loads_no_torch():
    code = (
        "import sys; from pipelines.device import pick; assert pick('auto') == 'cpu'; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@no_gpu
def test_a_gpu_that_is_not_there_is_an_error_that_says_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(DeviceMissing, match=r"driver is not loaded.*Ask for cpu"):
        pick("cuda")
    monkeypatch.setattr(device, "_DRIVER", tmp_path)  # a driver, and yet nothing that torch can use
    with pytest.raises(DeviceMissing, match="finds no GPU"):
        pick("cuda")
    assert pick("auto") == "cpu"


@no_gpu
def test_the_service_says_so_and_does_not_start():
    run = subprocess.run(
        [sys.executable, "-m", "app"], cwd=ROOT, env={"CRT_DEVICE": "cuda", "PATH": ""}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr.startswith("device_missing: there is no GPU to run on")


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 sse\n", True), ("flags : avx2 amx_bf16 amx_int8\n", True), ("Features\t: fp asimd bf16\n", True),
        ("flags : fpu avx2 avx512f avx512_vnni\n", False), ("model name : bf16 of a kind\n", False), (None, False),
    ],
)  # fmt: skip
def test_a_processor_trains_in_bfloat16_only_where_it_has_it(told, has, monkeypatch, tmp_path):
    monkeypatch.setattr(device, "_PROCESSOR", tmp_path / "cpuinfo")
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    assert device.bfloat16("cpu") is has
    assert device.bfloat16("cuda")


@no_gpu
def test_an_evaluation_on_a_gpu_that_is_not_there_says_so():
    run = subprocess.run(
        [sys.executable, "-m", "pipelines.evaluate", BUNDLED, "--device", "cuda", "falls", "nowhere"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.startswith("device_missing: there is no GPU to run on")


@places
def test_a_feature_is_the_same_to_the_bit_whoever_else_is_in_the_batch(clips, where):
    seen = FixedBackbone(checkpoint.load(BUNDLED).backbone, where)
    together = seen(clips)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([seen(clips[i : i + 1]) for i in range(3)]), together[:3])
    np.testing.assert_array_equal(seen([list(clip) for clip in clips[5:12]]), together[5:12])
    with ThreadPoolExecutor(4) as threads:
        for got, wanted in zip(threads.map(lambda i: seen(clips[i : i + 2]), range(8)), range(8), strict=True):
            np.testing.assert_array_equal(got, together[wanted : wanted + 2])


@places
def test_features_are_those_of_the_network_but_for_bfloat16(clips, where):
    with torch.inference_mode():
        wanted = checkpoint.load(BUNDLED).backbone.eval()(torch.from_numpy(clips[:4])).numpy()
    got = FixedBackbone(checkpoint.load(BUNDLED).backbone, where)(clips[:4])
    assert 0 < np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 0.03


@places
def test_a_crt_step_is_that_of_onnx_runtime(segments, where):
    model = checkpoint.load(BUNDLED)
    wanted = Recognizer(checkpoint.read(BUNDLED), threads=1).advance(*segments)
    step = FixedClassifier(model.classifier, model.segment, where)
    scores_BC, scores_BLC, memory_BM = step.advance(*segments)
    np.testing.assert_allclose(scores_BC, wanted.scores_BC, atol=1e-4)
    np.testing.assert_allclose(scores_BLC, wanted.scores_BLC, atol=1e-4)
    np.testing.assert_allclose(memory_BM, wanted.memory_BM, atol=1e-4)
    alone = step.advance(*(one[7:8] for one in segments))
    for got, all_of_them in zip(alone, (scores_BC, scores_BLC, memory_BM), strict=True):
        np.testing.assert_array_equal(got, all_of_them[7:8])
    np.testing.assert_array_equal(step.scores(*segments)[0], scores_BC)


@places
def test_too_many_rows_and_none_are_errors(where):
    double = Fixed(lambda x: (x * 2,), [np.zeros((1, 3), np.float32)], 4, where)
    np.testing.assert_array_equal(double(np.ones((2, 3), np.float32))[0], np.full((2, 3), 2))
    for rows in (0, 5):
        with pytest.raises(ValueError, match="1 to 4 rows at a time"):
            double(np.ones((rows, 3), np.float32))


@gpu
def test_a_recognizer_on_the_gpu_knows_what_one_on_the_cpu_does(clips, segments):
    there, here = (Recognizer(checkpoint.read(BUNDLED), threads=1, device=one) for one in ("cuda", "cpu"))
    got, wanted = there.features(clips), here.features(clips)
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.98
    np.testing.assert_allclose(there.advance(*segments).scores_BC, here.advance(*segments).scores_BC, atol=1e-3)
