"""What the index of very many images costs, without images: python tests/benchmarks/large_index.py [NUM_IMAGES ...]

In: numbers of images (100000 1000000 10000000). Out: a table: seconds and memory of the names, the fingerprint, the manifest, the order
of an epoch (all samples permuted; by shards of 1,000), the first batch, a batch of 256, what a forked worker comes to own, and
what a spawned one is sent. Names are made up (ImageNet's form, 39 letters), sizes too: listing a folder and asking for sizes is
the file system's cost and is not in it. Each row is a process of its own, whose memory is its peak less that of the imports. The
row "tuple of str" is the store that `Names` replaces.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from pretrain.data import manifest  # noqa: E402
from pretrain.data.index import Names, fingerprint_of  # noqa: E402
from pretrain.data.order import GlobalBatches, RankBatches, ShardBatches  # noqa: E402

COUNTS = (100_000, 1_000_000, 10_000_000)
BATCH, SHARD, WORKER_READS = 256, 1000, 50_000


def some_names(count: int):
    """train/n01440764/n01440764_00000001.JPEG and on, in sorted order."""
    per_class = -(-count // 1000)
    return (f"train/n{number // per_class:08d}/n{number // per_class:08d}_{number:08d}.JPEG" for number in range(count))


def megabytes(field: str) -> float:
    """VmHWM (peak) or VmRSS of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{field}:")[1].split()[0]) / 1e3


def private_after_fork(names: Sequence[str]) -> float:
    """MB that a forked worker owns after it has read WORKER_READS names, besides what it owns after reading none."""
    owned = []
    for reads in (0, WORKER_READS):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            step = max(1, len(names) // max(1, reads))
            for index in range(0, len(names) if reads else 0, step):
                len(names[index])
            rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
            kilobytes = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty"))
            os.write(writing, str(kilobytes).encode())
            os._exit(0)
        os.waitpid(child, 0)
        owned.append(int(os.read(reading, 20)) / 1e3)
        os.close(reading)
        os.close(writing)
    return owned[1] - owned[0]


def timed(call: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def measure(row: str, count: int) -> dict[str, float]:
    """One row, in this process."""
    base = megabytes("VmRSS")
    figures: dict[str, float] = {}
    if row in ("Names", "tuple of str"):
        make = Names if row == "Names" else tuple
        figures["seconds"], names = timed(lambda: make(some_names(count)))
        figures["MB"] = megabytes("VmHWM") - base
        figures["worker owns MB"] = private_after_fork(names)
        seconds, sent = timed(lambda: pickle.dumps(names, protocol=5))
        figures["pickle MB"], figures["pickle s"] = len(sent) / 1e6, seconds
    elif row == "fingerprint":
        names, sizes = Names(some_names(count)), np.arange(count)
        figures["seconds"], _ = timed(lambda: fingerprint_of(names, sizes))
        figures["MB"] = megabytes("VmHWM") - base
    elif row == "manifest, kept and taken":
        names, numbers = Names(some_names(count)), np.arange(count)
        small = np.zeros(count, np.uint32)
        kept = manifest.Manifest(numbers, numbers, small, small, small.astype(np.uint8), ("RGB",), {5: "bad"}, {})
        figures["kept s"], _ = timed(lambda: manifest._keep("large_index", names, kept))
        figures["seconds"], (_, same) = timed(lambda: manifest._still_true("large_index", names, numbers, numbers))
        assert same.all()
        figures["MB"] = megabytes("VmHWM") - base
    else:
        if row == "order of all":
            order = GlobalBatches(count, BATCH, seed=0)
        else:
            ends = np.minimum(np.arange(-(-count // SHARD) + 1) * SHARD, count)
            order = ShardBatches(ends, BATCH, seed=0)
        middle = order.steps_per_epoch // 2  # as after a resume
        figures["seconds"], _ = timed(lambda: order.batch(middle))
        number = min(2000, order.steps_per_epoch - middle)
        sampler = RankBatches(order, rank=0, world_size=1, from_step=middle, num_steps=number)
        seconds, _ = timed(lambda: sum(1 for _ in sampler))
        figures["batch ms"] = 1e3 * seconds / number
        figures["MB"] = megabytes("VmHWM") - base
    return figures


ROWS = ("Names", "tuple of str", "fingerprint", "manifest, kept and taken", "order of all", "order by shards")


def main() -> None:
    """Print the table; with --row, one row's figures as JSON."""
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
        return
    counts = [int(text) for text in sys.argv[1:]] or list(COUNTS)
    print(f"{'images':>10} {'what':<26} {'s':>8} {'MB':>8}  more")
    for count in counts:
        for row in ROWS:
            ran = subprocess.run(
                [sys.executable, __file__, "--row", row, str(count)], check=True, capture_output=True, text=True
            )
            found = json.loads(ran.stdout)
            seconds, memory = found.pop("seconds"), found.pop("MB")
            more = ", ".join(f"{name} {value:.3g}" for name, value in found.items())
            print(f"{count:>10} {row:<26} {seconds:>8.2f} {memory:>8.0f}  {more}")


if __name__ == "__main__":
    main()
