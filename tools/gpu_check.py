"""Check one GPU in at most eight minutes: speed against baselines, input, number types, exact resume, torchrun, torch.compile.

    python tools/gpu_check.py --output gpu_check.json
    python tools/gpu_check.py --output miniature.json --miniature      # the same path on the CPU, in seconds

Out: a table, and all figures as JSON, which is written again after every part. Exit code 1 where a target was missed, 2 where nothing could be measured.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
from pathlib import Path

from pretrain.base.command_line import user_path
from pretrain.base.errors import ConfigError, run_tool


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=user_path, default=Path("gpu_check.json"), help="JSON file (default: %(default)s)"
    )
    parser.add_argument("--miniature", action="store_true", help="on the CPU, in small; speeds are then not judged")
    parser.add_argument("--batch-size", type=int, help="images a step (default: by the GPU's memory)")
    parser.add_argument(
        "--seconds", type=int, default=480, help="parts that no longer fit are left out (default: %(default)s)"
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if not arguments.output.parent.is_dir():
        raise ConfigError(f"--output {arguments.output}: no folder {arguments.output.parent}; name one that exists")
    if arguments.batch_size is not None and (arguments.miniature or arguments.batch_size < 32):
        raise ConfigError(
            f"--batch-size {arguments.batch_size}: expected 32 or more, and not with --miniature, which has its own"
        )
    if arguments.seconds < 60:
        raise ConfigError(f"--seconds {arguments.seconds}: expected 60 or more; one part alone takes that long")
    from pretrain.base.atomic import write_json
    from pretrain.gpu_check.run import gpu_check, pick, table

    sizes, device = pick(miniature=arguments.miniature, batch_size=arguments.batch_size)
    found = gpu_check(
        sizes, device, seconds=arguments.seconds, announce=print, keep=lambda part: write_json(arguments.output, part)
    )
    write_json(arguments.output, found)
    print(table(found))
    print(f"wrote {arguments.output}")
    return int(any(row["passed"] is False for row in found["targets"]))


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
