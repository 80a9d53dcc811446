"""Ranks: alone without torchrun; ShuffleBN over two real gloo processes gives keys back in order."""

from __future__ import annotations

import errno
import multiprocessing
import os

import pytest
import torch
import torch.multiprocessing as mp

from pretrain.base.errors import ConfigError, DataError, UserError, run_tool
from pretrain.base.signals import StopFlag
from pretrain.model.momentum import shuffled_forward
from pretrain.run import ranks as ranks_module
from pretrain.run.ranks import Ranks, gather_rows, on_main, pick_device, start_ranks, stop_ranks
from pretrain.run.watch import NotFinite, Watch


def test_without_torchrun_there_is_one_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start_ranks("cpu", timeout_s=1) == Ranks(0, 0, 1)
    rows = torch.ones(2, 3)
    assert gather_rows(rows, Ranks()) is rows
    assert on_main(lambda: 3, Ranks()) == 3


def test_the_ranks_of_a_machine_are_numbered_one_after_the_other():
    ranks = [Ranks(rank, rank % 4, 8, 4) for rank in range(8)]
    assert [each.node for each in ranks] == [0] * 4 + [1] * 4
    assert {each.ranks_of_node for each in ranks} == {(0, 1, 2, 3), (4, 5, 6, 7)}
    assert Ranks().ranks_of_node == (0,)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DataError("record.json is not readable"), "record.json is not readable"),
        (OSError(errno.ENOSPC, "No space left on device", "images.json"), "could not write images.json"),
        (
            PermissionError(errno.EACCES, "Permission denied", "log"),
            r"ended the main rank \(PermissionError: .*Permission denied: 'log'",
        ),
        (ValueError("half a file"), r"ended the main rank \(ValueError: half a file"),
    ],
)
def test_no_rank_waits_for_a_main_one_that_an_error_has_ended(monkeypatch, error, told):
    def fail():
        raise error

    sent = []
    monkeypatch.setattr(ranks_module, "gather_values", lambda value, ranks: sent.append(value) or [value])
    with pytest.raises(UserError if "could not" in told else type(error)):
        on_main(fail, Ranks(0, 0, 2, 2))  # the main rank's own stays what it was
    monkeypatch.setattr(ranks_module, "gather_values", lambda value, ranks: [*sent, value])
    with pytest.raises(UserError, match=told):
        on_main(lambda: pytest.fail("not of this rank"), Ranks(1, 1, 2, 2))


def test_half_an_environment_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        start_ranks("cpu", timeout_s=1)


@pytest.mark.parametrize(
    ("device", "gpus", "backend", "device_id"),
    [
        ("auto", 8, "nccl", torch.device("cuda", 3)),
        ("cuda", 8, "nccl", torch.device("cuda", 3)),
        ("cpu", 8, "gloo", None),
        ("auto", 0, "gloo", None),
    ],
)
def test_the_backend_is_that_of_the_device_that_will_be_used(monkeypatch, device, gpus, backend, device_id):
    joined, current = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, **rest: joined.append((name, rest)))
    for name, value in {"RANK": "11", "LOCAL_RANK": "3", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert start_ranks(device, timeout_s=60) == Ranks(11, 3, 16, 8)
    ((name, rest),) = joined
    assert (name, rest["device_id"]) == (backend, device_id)
    assert current == ([3] if backend == "nccl" else [])  # object gathers use the current device


def test_more_processes_than_gpus_are_refused_before_the_group_is_joined(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="start fewer processes"):
        start_ranks("auto", timeout_s=60)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_asking_for_cuda_without_one_says_what_to_pass():
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

    def refuse():
        raise ConfigError("a foreign folder")

    def fill_the_disk():
        raise OSError(errno.ENOSPC, "No space left on device", "images.json")

    agreed = [on_main(lambda: rank, ranks)]  # 0 on the main rank, None elsewhere
    for action in (refuse, fill_the_disk):
        try:
            on_main(action, ranks)
        except UserError as error:
            agreed.append(str(error).partition(";")[0])
    stop = StopFlag()
    stop.is_set = rank == 0
    loss = torch.tensor(float("nan") if rank == 1 else 1.0)
    heard = []
    for late in (False, True):
        watch = Watch(stop, ranks, torch.device("cpu"), late=late)
        try:
            watch.ask(
                loss, None, explain=lambda what: f"not finite here: {what}", samples=torch.tensor([rank, rank + 10])
            )
            watch.settle()
        except NotFinite as error:
            batches = [(entry["rank"], entry["not_finite"], entry["images"]) for entry in error.report]
            heard.append((watch.stopping, str(error), batches))
    queue.put((rank, keys.flatten().tolist(), seen, agreed, heard))
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
        keys, seen, agreed, heard = results[rank]
        assert keys == [2 * (value + 10 * rank) for value in range(4)]  # own order
        assert agreed == [  # the main rank's errors are raised on both
            None if rank else 0,
            "a foreign folder",
            "could not write images.json: No space left on device",
        ]
        # Rank 0 has the stop signal and rank 1 the bad loss: both learn of both, at once or late.
        message = f"not finite here: {'loss' if rank == 1 else None}"
        assert heard == [(True, message, [(0, None, [0, 10]), (1, "loss", [1, 11])])] * 2
        assert set(seen) != {value + 10.0 * rank for value in range(4)}  # each rank computed others' images too
    assert sorted(results[0][1] + results[1][1]) == [0, 1, 2, 3, 10, 11, 12, 13]


def join_alone(port):
    os.environ.update(RANK="1", LOCAL_RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    run_tool(lambda: start_ranks("cpu", timeout_s=2))


@pytest.mark.slow
def test_a_rank_whose_first_one_never_comes_ends_in_time_and_says_so(free_port, capfd):
    """torch alone asks again and again: 20 and 50 s were seen with a timeout of 10."""
    process = multiprocessing.get_context("fork").Process(target=join_alone, args=(free_port,))
    process.start()
    process.join(2 + 1 + 2)
    code = process.exitcode
    process.kill()
    assert code == 2
    said = capfd.readouterr().err
    assert "error: the other ranks did not come within runtime.timeout_s=2 s" in said
    assert "Traceback" not in said
