"""What runs under torchrun in the GPU check: python -m torch.distributed.run ... -m pretrain.gpu_check.one_rank DEVICE MINIATURE OUT.

Out: JSON at OUT: the backend, whether its collectives return what was put in, and the losses of steps with and without DDP.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pretrain.base.atomic import write_json
from pretrain.gpu_check.checks import Trainer
from pretrain.gpu_check.sizes import MINIATURE, Sizes, run_config, synthetic_batch

STEPS = 3
TOLERANCE = 1e-3  # relative; DDP adds gradients in another order


def measure(device: torch.device, sizes: Sizes) -> dict[str, object]:
    """In an initialised process group of one."""
    values = torch.arange(8.0, device=device)
    parts = [torch.empty_like(values)]
    total = values.clone()
    dist.all_gather(parts, values)
    dist.all_reduce(total)
    collectives = torch.equal(parts[0], values) and torch.equal(total, values)
    losses = {}
    for name in ("alone", "ddp"):
        trainer = Trainer(run_config("moco_v2", sizes, device=device.type, precision="fp32"), device)
        if name == "ddp":
            trainer.state.forward = DistributedDataParallel(trainer.state.method.trained)
        batch = synthetic_batch(trainer.config, device=device)
        losses[name] = [float(trainer.step(batch)) for _ in range(STEPS)]
    close = all(abs(a - b) <= TOLERANCE * abs(a) for a, b in zip(losses["alone"], losses["ddp"], strict=True))
    return {"backend": dist.get_backend(), "collectives": collectives, "losses": losses, "ok": collectives and close}


def main() -> None:
    """What torchrun starts: DEVICE MINIATURE ANSWER on the command line; the findings go to the file ANSWER as JSON."""
    kind, miniature, answer = sys.argv[1:]
    device = torch.device("cuda", 0) if kind == "cuda" else torch.device("cpu")
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", device_id=device if kind == "cuda" else None)
    try:
        sizes = MINIATURE if miniature == "1" else Sizes(batch_size=32)
        write_json(Path(answer), measure(device, sizes))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
