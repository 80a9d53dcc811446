"""Pre-train an encoder on a folder of unlabelled images.

python tools/pretrain.py --config-file configs/pretrain/infomin_r50_200ep.yaml --output-dir runs/infomin data.root=IMAGES
torchrun --nproc_per_node=8 tools/pretrain.py ... is the same run on eight devices.
"""

import sys

sys.path.pop(0)  # tools/ itself: this file would hide the package `pretrain`

import argparse
import logging
from pathlib import Path

from pretrain.base.errors import ConfigError, run_tool
from pretrain.config import load_run_config
from pretrain.run.ranks import start_ranks, stop_ranks


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, required=True, help="a file of configs/pretrain/ or your own")
    parser.add_argument("--output-dir", type=Path, help="run directory: log, checkpoints, result")
    parser.add_argument("--resume", choices=("auto", "never"), default="never", help="continue the run in --output-dir")
    parser.add_argument("--dry-run", action="store_true", help="print what would run and stop")
    parser.add_argument(
        "--show-views", type=Path, metavar="OUT.png", help="draw originals, views and patches, and stop"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="for example data.root=IMAGES optimizer.epochs=10"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    config = load_run_config(arguments.config_file, arguments.overrides)
    if arguments.show_views:
        from pretrain.data.stream import open_stream
        from pretrain.run.ranks import Ranks

        open_stream(config, ranks=Ranks(), announce=print).draw_sheet(arguments.show_views)
        print(f"wrote {arguments.show_views}")
    if arguments.dry_run:
        from pretrain.dry_run import describe

        print(describe(config))
    if arguments.dry_run or arguments.show_views:
        return
    if arguments.output_dir is None:
        raise ConfigError("no --output-dir given; name a folder for the run, for example --output-dir runs/infomin")
    from pretrain.train import train

    ranks = start_ranks(config.runtime.device, timeout_s=config.runtime.timeout_s)
    logging.basicConfig(level=logging.INFO if ranks.is_main else logging.WARNING, format="%(message)s")
    try:
        result = train(config, output_dir=arguments.output_dir, resume=arguments.resume == "auto", ranks=ranks)
    finally:
        stop_ranks(ranks)
    if ranks.is_main and result:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in result["final"].items())
        print(
            f"finished: {result['steps']} steps; {figures}\ncheckpoint: {arguments.output_dir / result['checkpoint']}"
        )


run_tool(main)
