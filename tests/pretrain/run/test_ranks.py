"""Ranks: alone without torchrun; ShuffleBN over two real gloo processes gives keys back in order."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp

from pretrain.base.errors import ConfigError
from pretrain.model.momentum import shuffled_forward
from pretrain.run.ranks import Ranks, any_rank, gather_rows, pick_device, start_ranks, stop_ranks


def test_without_torchrun_there_is_one_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start_ranks("cpu", timeout_s=1) == Ranks(0, 0, 1)
    rows = torch.ones(2, 3)
    assert gather_rows(rows, Ranks()) is rows
    assert any_rank(True, Ranks(), torch.device("cpu"))


def test_half_an_environment_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        start_ranks("cpu", timeout_s=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_asking_for_cuda_without_one_says_what_to_type():
    assert pick_device("auto", Ranks()) == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"runtime\.device=cpu"):
        pick_device("cuda", Ranks())


def shuffle_in_process(rank, port, queue):
    import os

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    ranks = start_ranks("cpu", timeout_s=30)
    images = torch.arange(4.0).view(4, 1) + 10 * rank
    seen = []

    def encode(batch):
        seen.extend(batch.flatten().tolist())
        return batch * 2

    keys = shuffled_forward(encode, images, ranks=ranks, seed=0, step=1)
    queue.put((rank, keys.flatten().tolist(), seen, any_rank(rank == 1, ranks, torch.device("cpu"))))
    stop_ranks(ranks)


@pytest.mark.slow
def test_shuffled_keys_return_to_their_images_over_two_processes(free_port):
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=shuffle_in_process, args=(rank, free_port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    results = {rank: rest for rank, *rest in (queue.get(timeout=120) for _ in range(2))}
    for process in processes:
        process.join(timeout=60)
    for rank in range(2):
        keys, seen, agreed = results[rank]
        assert keys == [2 * (value + 10 * rank) for value in range(4)]  # own order
        assert agreed  # rank 1's flag reaches rank 0
        assert set(seen) != {value + 10.0 * rank for value in range(4)}  # each rank computed others' images too
    assert sorted(results[0][1] + results[1][1]) == [0, 1, 2, 3, 10, 11, 12, 13]
