"""The benchmarks of the networks run, and their figures are those that their names promise."""

import torch

from benchmarks import backbones, crt_step


def test_crt_step_compares_each_writer_with_the_plain_transformer() -> None:
    """Three batches of none, gru and ncgru, ncgru against gru, and the series against solving; torch is left as it was."""
    threads = torch.get_num_threads()
    rows = {row.metric: row for row in crt_step.run(seconds=0)}

    for batch in (1, 8, 32):
        plain = rows[f"step, batch {batch}, none"]
        for writer in ("gru", "ncgru"):
            row = rows[f"step, batch {batch}, {writer}"]
            assert (row.peer, row.unit) == ("none", "ms")
            assert row.ratio == row.value / plain.value
        assert rows[f"step, batch {batch}, ncgru folded"].peer == "gru"
    assert rows["ncgru's inverse after an optimizer step, memory 512"].peer == "solving anew"
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_backbones_are_compared_per_sampled_frame_with_our_own() -> None:
    """Ours as it is served first, then those asked for, each with its frames, size and rate."""
    served, torch_small, large = backbones.run(names=["small", "mobilenet_v3_small"], seconds=0)
    assert served.metric.startswith("small as served, 4 frames of 320x240")
    assert (served.unit, served.peer) == ("ms/frame", None)
    assert torch_small.metric == "small, 4 frames of 320x240 at 8/s"
    assert large.metric == "mobilenet_v3_small, 4 frames of 224x224 at 8/s"
    for row in (torch_small, large):
        assert (row.unit, row.peer, row.ratio) == ("ms/frame", "small as served", row.value / served.value)
