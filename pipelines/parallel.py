"""Training by several processes, on one machine or many, as torchrun starts them:

    torchrun --nproc-per-node 2 -m pipelines.train CONFIG

Each has its share of the lanes or of the batch, and gradients are averaged (DistributedDataParallel). What is done once, such as
decoding and measuring, the first one does. Without torchrun there is one process, and nothing of this costs anything.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.device import Device

_PATIENCE = timedelta(days=2)
"""How long others wait for the first, who may be decoding a data set."""
_Found = TypeVar("_Found")


def rank() -> int:
    """This process's number; 0 is the first."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def together(device: Device) -> Iterator[None]:
    """For the time of a training: meets the other processes that torchrun started, if it did."""
    if "LOCAL_RANK" not in os.environ:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def first_then_others(work: Callable[[], _Found]) -> _Found:
    """What fills a cache: the first process does it, then the others, who find it filled."""
    if rank() == 0:
        found = work()
        wait()
        return found
    wait()
    return work()


def wait() -> None:
    """Until all are here."""
    if dist.is_initialized():
        dist.barrier()


def parallel(network: nn.Module) -> nn.Module:
    """The same, with gradients averaged over the processes at each backward pass, and the first one's numbers to begin with."""
    if world() == 1:
        return network
    return cast(nn.Module, DistributedDataParallel(network, find_unused_parameters=True))
