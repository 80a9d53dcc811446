"""Measure how much information the two views of a pre-training run share, in nats.

python tools/measure_views.py --checkpoint runs/infomin --data HELD_OUT_IMAGES --json out.json
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import user_path
from pretrain.base.errors import run_tool


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=user_path, required=True, help="of tools/pretrain.py: a file, or a run for its newest"
    )
    parser.add_argument("--data", type=user_path, required=True, help="folder of images that the run has not seen")
    parser.add_argument("--json", type=user_path, help="where the record goes; without it, figures are only printed")
    parser.add_argument("--batch-size", type=int, default=256, help="pairs a batch: log of it is the ceiling (256)")
    parser.add_argument("--passes", type=int, default=1, help="how often each image is seen, in new views (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the views and the batches (0)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--num-workers", type=int, default=0, help="loader processes (0: none)")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    arguments = parse_arguments()
    from pretrain.base.record import this_command
    from pretrain.good_views.measure import MeasureRequest, describe, measure_views

    request = MeasureRequest(
        checkpoint=arguments.checkpoint,
        data=arguments.data,
        batch_size=arguments.batch_size,
        passes=arguments.passes,
        seed=arguments.seed,
        device=arguments.device,
        precision=arguments.precision,
        num_workers=arguments.num_workers,
        command=this_command(),
    )
    print(describe(measure_views(request, output=arguments.json, announce=print)))
    if arguments.json:
        print(f"wrote {arguments.json}")


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
