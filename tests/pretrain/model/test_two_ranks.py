"""Two gloo processes with half the batch each take the steps of one process with the whole batch: loss, gradient, memory.

Networks are in eval() mode, so that BatchNorm does not depend on how the batch is split.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from pretrain.model import contrast
from pretrain.run.ranks import Ranks, gather_rows, start_ranks, stop_ranks
from tests.pretrain.model.tiny_methods import batch_of, build, preset, use_tiny_encoders

SIZE, STEPS = 8, 3
# Name of a case -> preset, and what is changed of it.
CASES = {
    "bank": ("instdis", {}),
    "bank with jigsaw": ("pirl", {}),
    "bank of two towers": ("cmc", {"jigsaw": True}),
    "batch": ("simclr", {}),
    "batch with jigsaw": ("simclr", {"jigsaw": True}),
    "queue of two towers": ("cmc_v2", {"jigsaw": True, "symmetric": True, "queue_size": 20}),
}


def only_own_rows(rows, ranks, **over):
    return rows


def only_own_gradient(rows, ranks):
    """Gradient flows to a rank's rows from its own loss alone, as where all_gather's own part is put back by hand."""
    parts = list(gather_rows(rows.detach(), ranks).chunk(ranks.world_size))
    parts[ranks.rank] = rows
    return torch.cat(parts)


# Control -> the case that must differ, the name in pretrain.model.contrast, the fault.
FAULTS = {
    "no gradient through the gather": ("batch", "gather_rows_with_gradient", gather_rows),
    "gradient from the own loss alone": ("batch", "gather_rows_with_gradient", only_own_gradient),
    "negatives of the own rank alone": ("batch", "gather_rows_with_gradient", lambda rows, ranks: rows.repeat(2, 1)),
    "the bank gathers nothing": ("bank", "gather_rows", only_own_rows),
}


def train(case, ranks):
    """[(loss, gradients)] of each step and the state at the end."""
    name, over = CASES[case]
    method = build(preset(name, **over)).eval()
    forward = method.trained if ranks.world_size == 1 else DistributedDataParallel(method.trained)
    optimizer = torch.optim.SGD(method.trained.parameters(), lr=0.1)
    share = SIZE // ranks.world_size
    steps = []
    for step in range(STEPS):
        whole = batch_of(SIZE, step=step, index=[3, 1, 7, 5, 3, 9, 7, 2] if step == 1 and "bank" in case else None)
        batch = whole.map(lambda rows: rows[ranks.rank * share : (ranks.rank + 1) * share])
        output = method.step(batch, forward=forward, ranks=ranks, step=step)
        optimizer.zero_grad()
        output.loss.backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in method.trained.parameters()])
        steps.append((output.loss.item(), gradients.clone()))
        optimizer.step()
        method.after_step([output], ranks=ranks, momentum=0.9)
    return steps, method.state_dict()


def in_process(rank, port, folder):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
    torch.set_num_threads(1)
    ranks = start_ranks("cpu", timeout_s=60)
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_encoders(patch)
        found = {case: train(case, ranks) for case in CASES}
        for fault, (case, name, function) in FAULTS.items():
            with pytest.MonkeyPatch.context() as plant:
                plant.setattr(contrast, name, function)
                found[fault] = train(case, ranks)
    torch.save(found, Path(folder) / f"{rank}.pt")
    stop_ranks(ranks)


def differences(one, ranks):
    """What two ranks have other than one: largest differences of mean loss, gradient and state."""
    (steps, state), halves = one, [rank[0] for rank in ranks]
    loss = max(abs(whole[0] - (first[0] + second[0]) / 2) for whole, first, second in zip(steps, *halves, strict=True))
    gradient = max(
        (step[1] - half[1]).abs().max().item() for own in halves for step, half in zip(steps, own, strict=True)
    )
    states = max((state[name] - rank[1][name]).abs().max().item() for rank in ranks for name in state)
    return {"loss": loss, "gradient": gradient, "state": states}


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one(free_port, tmp_path, monkeypatch):
    mp.spawn(in_process, args=(free_port, str(tmp_path)), nprocs=2)
    use_tiny_encoders(monkeypatch)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for case in CASES:
        found = differences(train(case, Ranks()), [rank[case] for rank in ranks])
        assert max(found.values()) < 1e-12, (case, found)
    for fault, (case, _, _) in FAULTS.items():  # controls
        found = differences(train(case, Ranks()), [rank[fault] for rank in ranks])
        assert found["state"] > 1e-4, (fault, found)
        assert case == "bank" or found["gradient"] > 1e-4, (fault, found)
