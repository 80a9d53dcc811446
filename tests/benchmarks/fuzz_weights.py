"""100,000 damaged weight files, once: the figures behind the reader's promise, with the libraries alone as control.

    python tests/benchmarks/fuzz_weights.py [--count 100000] [--seed 0] [--no-control]

Out: counts per format and outcome; exit code 1 when one file broke the rule of tests/transfer/conversion/weight_fuzz.py.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.transfer.conversion.weight_fuzz import CHECKED, FORMATS, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-control", action="store_true", help="leave the libraries alone out")
    arguments = parser.parse_args()
    resource.setrlimit(
        resource.RLIMIT_AS, (12 << 30, 12 << 30)
    )  # a bomb that got through is an error, not a frozen machine
    bad = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for kind in FORMATS:
            start = time.perf_counter()
            count = arguments.count // len(FORMATS)
            ours, raw = fuzz(kind, count, Path(folder), seed=arguments.seed, control=not arguments.no_control)
            allowed = {"refused", "original"} | (set() if kind in CHECKED else {"other values"})
            bad += sum(number for name, number in ours.items() if name not in allowed)
            print(f"{kind}: {count} files in {time.perf_counter() - start:.0f} s")
            print(f"  ours    {dict(ours.most_common())}")
            print(f"  control {dict(raw.most_common())}", flush=True)
    print(f"broke the rule: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
