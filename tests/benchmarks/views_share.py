"""How much of the demo's pre-training its views cost, on one core: milliseconds of a batch's views and of the step on them.

    python tests/benchmarks/views_share.py [--turns 5]

The demo (configs/study/demo.yaml) makes its views on the same two cores that train; here one process does both, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
NUM_IMAGES = 256


def demo_images(folder: Path) -> Path:
    """A small data set of the demo's kind; its pre-training images are in unlabelled/train."""
    from transfer.demo_data.config import SyntheticConfig
    from transfer.demo_data.write import write_dataset

    config = SyntheticConfig(num_unlabelled=NUM_IMAGES, num_readout=128, num_train_scenes=1, num_test_scenes=1)
    write_dataset(config, folder / "demo", num_workers=0)
    return folder / "demo"


def demo_step(folder: Path, *, batch_size: int | None = None) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """(a function that makes the views of a next batch, the step on a batch) with the demo's own settings."""
    import torch

    from pretrain.base.strict import load_yaml
    from pretrain.config import load_run_config
    from pretrain.data.stream import open_stream
    from pretrain.gpu_check.checks import Trainer
    from pretrain.run.ranks import Ranks

    part = load_yaml(ROOT / "configs" / "study" / "demo.yaml")["pretrain"]
    data = demo_images(folder)
    overrides = [text.replace("{data}", str(data)) for text in part["overrides"]]
    overrides += ["data.num_workers=0", "runtime.device=cpu"]
    if batch_size is not None:
        overrides += [f"optimizer.batch_size={batch_size}", "method.batchnorm_images=4"]
    config = load_run_config(ROOT / part["config_file"], overrides)
    trainer = Trainer(config, torch.device("cpu"))
    batches = open_stream(config, ranks=Ranks(), announce=lambda text: None).batches(from_step=0, num_steps=1_000)
    return lambda: next(batches), lambda batch: float(trainer.step(batch)) and None


def main() -> None:
    import cv2
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    views, steps = [], []
    with TemporaryDirectory() as name:
        make_batch, step = demo_step(Path(name))
        for turn in range(arguments.turns + 1):
            started = time.perf_counter()
            batch = make_batch()
            made = time.perf_counter()
            step(batch)
            if turn:
                views.append(1000 * (made - started))
                steps.append(1000 * (time.perf_counter() - made))
    shares = sorted(100 * a / (a + b) for a, b in zip(views, steps, strict=True))
    print(
        f"views {statistics.median(views):.0f} ms, step {statistics.median(steps):.0f} ms: "
        f"{statistics.median(shares):.1f} % [{shares[0]:.1f}-{shares[-1]:.1f}] of a step with its views"
    )


if __name__ == "__main__":
    main()
