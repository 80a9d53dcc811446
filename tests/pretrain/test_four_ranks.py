"""Four gloo processes, two a machine: synchronised BatchNorm, ShuffleBN over the machine, gradients averaged once a step."""

from __future__ import annotations

import os

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.model.batchnorm import GatheredBatchNorm, synchronise_batchnorm
from pretrain.model.momentum import shuffled_forward
from pretrain.run.ranks import start_ranks, stop_ranks
from pretrain.train import _no_average

WORLD, NODE, SHARE = 4, 2, 3
CPU = torch.device("cpu")


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4))
    return nn.Sequential(layers, nn.BatchNorm1d(4, affine=False)).double()


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(WORLD * SHARE, 2, 4, 4, dtype=torch.float64, generator=generator) * 3 + 1


def loss_of(embedded, first):
    """A loss in which every row counts differently, so that BatchNorm's gradient is not zero."""
    weights = torch.arange(WORLD * SHARE * 4, dtype=torch.float64).view(-1, 4).cos()
    return (embedded * weights[first : first + len(embedded)]).sum(dim=1).square().mean()


def trained(model, forward, rows, first):
    """(outputs, gradients, running statistics) of one step."""
    embedded = forward(rows)
    loss_of(embedded, first).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return embedded.detach(), gradients, dict(model.named_buffers())


def in_process(rank, port, queue):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank % NODE), WORLD_SIZE=str(WORLD), LOCAL_WORLD_SIZE=str(NODE))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    ranks = start_ranks("cpu", timeout_s=60)
    mine = images()[rank * SHARE : (rank + 1) * SHARE]
    results = {}
    for kind in ("synchronised", "plain"):
        model = network()
        if kind == "synchronised":
            synchronise_batchnorm(model, ranks, CPU)
            assert isinstance(model[1], GatheredBatchNorm)
        results[kind] = trained(model, DistributedDataParallel(model), mine, rank * SHARE)

    seen = {}
    for over in ("world", "node"):
        numbers = torch.arange(4.0).view(4, 1) + 10 * rank
        seen[over] = []

        def encode(batch, seen=seen[over]):
            seen.extend(batch.flatten().tolist())
            return batch * 2

        for step in range(3):
            keys = shuffled_forward(encode, numbers, ranks=ranks, seed=0, step=step, over=over)
            assert torch.equal(keys, numbers * 2)  # own order

    linear = nn.Linear(2, 1, bias=False)
    forward = DistributedDataParallel(linear)
    synchronised = []
    for last in (False, True):
        with torch.no_grad():
            linear.weight.zero_()
        with _no_average(forward) if not last else torch.enable_grad():
            forward(torch.full((1, 2), float(rank + 1))).sum().backward()
        synchronised.append(linear.weight.grad[0, 0].item())
    queue.put((rank, _portable(results), seen, synchronised))
    stop_ranks(ranks)


def _portable(value):
    """Tensors as lists: a queue sends tensors as handles that die with their process."""
    if torch.is_tensor(value):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _portable(entry) for key, entry in value.items()}
    return [_portable(entry) for entry in value]


@pytest.fixture(scope="module")
def ranks_heard():
    """Rank -> (steps of the networks, what the encoder saw, gradients of a linear layer)."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=in_process, args=(rank, port, queue)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    heard = {rank: rest for rank, *rest in (queue.get(timeout=120) for _ in range(WORLD))}
    for process in processes:
        process.join(timeout=60)
    return heard


def gap(found, expected):
    return (torch.tensor(found, dtype=torch.float64) - expected).abs().max().item()


@pytest.mark.slow
def test_synchronised_batchnorm_is_one_process_with_the_whole_batch(ranks_heard):
    model = network()
    outputs, gradients, buffers = trained(model, model, images(), 0)
    gaps = {}
    for kind in ("synchronised", "plain"):
        of_kind = [ranks_heard[rank][0][kind] for rank in range(WORLD)]
        gaps[kind] = {
            "forward": gap([row for found in of_kind for row in found[0]], outputs),
            "backward": max(gap(of_kind[0][1][name], value) for name, value in gradients.items()),
            "statistics": max(gap(of_kind[0][2][name], value) for name, value in buffers.items()),
        }
    assert max(gaps["synchronised"].values()) < 1e-12, gaps
    assert min(gaps["plain"].values()) > 1e-3, gaps  # control: each rank by itself


@pytest.mark.slow
def test_over_the_node_no_image_leaves_its_machine(ranks_heard):
    for rank in range(WORLD):
        machines = {over: {int(value // 10) // NODE for value in seen} for over, seen in ranks_heard[rank][1].items()}
        assert machines == {"node": {rank // NODE}, "world": {0, 1}}
        others = {int(value // 10) for value in ranks_heard[rank][1]["node"]} - {rank}
        assert others  # but from one rank to another it does


@pytest.mark.slow
def test_gradients_of_micro_batches_are_added_up_before_they_are_averaged(ranks_heard):
    for rank in range(WORLD):
        own, averaged = ranks_heard[rank][2]
        assert own == rank + 1
        assert averaged == pytest.approx(2 * (1 + 2 + 3 + 4) / 4)  # of the sum of both
