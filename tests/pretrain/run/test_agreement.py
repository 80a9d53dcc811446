"""Ranks that were started as different runs are refused on all of them; what a machine may have its own way is not."""

from __future__ import annotations

import os

import pytest
import torch
import torch.multiprocessing as mp

from pretrain.base.errors import ConfigError
from pretrain.base.record import without
from pretrain.config import to_plain
from pretrain.run import agreement
from pretrain.run.agreement import OF_A_MACHINE, require_agreement
from pretrain.run.ranks import Ranks, start_ranks, stop_ranks
from pretrain.train import train


def asked(patch, *configs):
    """What each rank of these hears."""
    values = [without(to_plain(config), OF_A_MACHINE) for config in configs]
    patch.setattr(agreement, "gather_values", lambda own, ranks: values)
    for rank, config in enumerate(configs):
        require_agreement(config, Ranks(rank, rank, len(configs), len(configs)))


@pytest.mark.parametrize(
    ("over", "found"),
    [
        ({"optimizer": {"learning_rate": 0.1}}, "rank 1 has optimizer.learning_rate=0.1, on rank 0 0.03;?"),
        ({"seed": 1}, "rank 1 has seed=1, on rank 0 0"),
        ({"method": {"temperature": 0.5}, "seed": 1}, "method.temperature=0.5, on rank 0 0.15; seed=1, on rank 0 0"),
        ({"runtime": {"log_every_steps": 7}}, "runtime.log_every_steps=7"),  # ranks meet to average what is logged
        ({"monitor": {"every_epochs": 1}}, "monitor.every_epochs=1, on rank 0 0"),
    ],
)
def test_a_rank_of_another_run_is_named_with_its_keys(tiny_config, monkeypatch, over, found):
    with pytest.raises(ConfigError, match=rf"expected one configuration on all 2 ranks, found that .*{found}"):
        asked(monkeypatch, tiny_config(), tiny_config(**over))


def test_a_machine_may_have_its_own_folder_workers_and_way_to_compute(tiny_config, monkeypatch):
    own = {
        "data": {"root": "/elsewhere", "num_workers": 3},
        "monitor": {"every_epochs": 1, "labelled": "/labelled"},
        "runtime": {"compile": True, "channels_last": True, "cuda_graph": False, "timeout_s": 30.0},
    }
    asked(monkeypatch, tiny_config(monitor={"every_epochs": 1}), tiny_config(**own))


def one_of_two(rank, configs, output_dir, port, queue):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ranks = start_ranks("cpu", timeout_s=60)
    try:
        train(configs[rank], output_dir=output_dir, resume=True, ranks=ranks)
    except ConfigError as error:
        queue.put(str(error))
    stop_ranks(ranks)


@pytest.mark.slow
def test_two_processes_with_different_learning_rates_both_end_before_anything_is_written(
    tiny_config, tmp_path, free_port
):
    configs = [tiny_config(optimizer={"learning_rate": rate}) for rate in (0.03, 0.3)]
    context = mp.get_context("spawn")
    queue = context.Queue()
    arguments = [(rank, configs, tmp_path / "run", free_port, queue) for rank in range(2)]
    processes = [context.Process(target=one_of_two, args=each) for each in arguments]
    for process in processes:
        process.start()
    messages = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert messages[0] == messages[1] and "rank 1 has optimizer.learning_rate=0.3, on rank 0 0.03" in messages[0]
    assert not (tmp_path / "run").exists()
