"""How well each bound measures a known mutual information: mean, bias and standard deviation over repeats.

    python tests/benchmarks/information_table.py [--batch-size 128] [--repeats 200]

In: correlated Gaussians, whose best critic and information are known. Each repeat is one batch of fresh pairs, its other
pairs the negatives (K = batch size - 1). Out: a Markdown table in nats. `*`: InfoNCE within the margin of its ceiling.
The critic is the best there is: what the table shows is the bound's own doing, not a network's. SMILE clips at 5.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from pretrain.good_views.information import BOUNDS, estimate  # noqa: E402
from tests.pretrain.gaussians import correlation_for, ideal_batches  # noqa: E402

DIMENSIONS = (1, 4, 16)
INFORMATION = (0.0, 0.5, 1.0, 2.0, 4.0, 6.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    print(
        f"{arguments.repeats} repeats, batch {arguments.batch_size}, K = {arguments.batch_size - 1}, ceiling of InfoNCE "
        f"{math.log(arguments.batch_size):.2f} nats. Cells: mean (bias) ± standard deviation of one batch\n"
    )
    print("| D | I | " + " | ".join(BOUNDS) + " |\n|" + "---|" * (2 + len(BOUNDS)))
    for dim in DIMENSIONS:
        for nats in INFORMATION:
            rho = correlation_for(dim, nats)
            batches = list(ideal_batches(dim, rho, count=arguments.repeats, size=arguments.batch_size))
            cells = []
            for name, bound in BOUNDS.items():
                values = torch.stack([bound(scores) for scores in batches])
                mean, spread = float(values.mean()), float(values.std())
                mark = "*" if estimate(name, batches).saturated else ""
                cells.append(f"{mean:.2f}{mark} ({mean - nats:+.2f}) ± {spread:.2f}")
            print(f"| {dim} | {nats:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
