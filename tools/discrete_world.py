"""How much should two views share? A world small enough to try every answer, computed exactly (no network, no sampling).

    python tools/discrete_world.py
    python tools/discrete_world.py --output-dir runs/discrete_world

Prints the three regimes of shared information on examples and the enumeration of Proposition 3.1 over all pairs of views.
With --output-dir also writes regimes.png (every pair of views) and regimes.json. A few seconds.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import user_path
from pretrain.base.errors import run_tool


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=user_path, help="also write regimes.png and regimes.json here")
    parser.add_argument(
        "--num-labels", type=int, default=16, help="labelled inputs of the reader, 1 to 32 (default 16)"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    from pretrain.good_views.discrete_world.report import run

    for line in run(arguments.output_dir, num_labels=arguments.num_labels):
        print(line, flush=True)


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
