"""Pre-train an encoder on a folder of unlabelled images.

python tools/pretrain.py --config-file infomin_r50_200ep --output-dir runs/infomin data.root=IMAGES
torchrun --nproc_per_node=8 tools/pretrain.py ... is the same run on eight devices.
With --slurm PARTITION --nodes 2 --gpus-per-node 8 it is a job of Slurm.

Without --config-file: a small run by the number and the size of the images; it is printed which.
After Ctrl-C, SIGTERM or a crash the same command again continues the run.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: this file would hide the package `pretrain`

import argparse
import logging
from typing import TYPE_CHECKING

from pretrain.base.command_line import parse_with_overrides, user_path
from pretrain.base.errors import ConfigError, Terminated, run_tool
from pretrain.base.signals import ending_on_sigterm

if TYPE_CHECKING:
    from pretrain.config import RunConfig
    from pretrain.data.index import Source


def parse_arguments() -> argparse.Namespace:
    from pretrain.config import method_names  # imports torch: after run_tool has begun to say "interrupted" for Ctrl-C
    from pretrain.run.slurm import add_slurm_options

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config-file",
        type=user_path,
        help="a file of configs/pretrain/ or your own (default: a small run by the number of images; it is printed which)",
    )
    parser.add_argument("--method", choices=method_names(), help="put this method's values over the file's")
    parser.add_argument("--output-dir", type=user_path, help="run directory: log, checkpoints, result")
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto (default): continue the run in --output-dir if there is one; never: refuse a folder that holds one",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="do a few steps, print what would run and how long it will take, and stop",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="take some steps, print where their time goes and stop; leaves nothing behind",
    )
    parser.add_argument(
        "--show-views", type=user_path, metavar="OUT.png", help="draw originals, views and patches, and stop"
    )
    add_slurm_options(parser)
    return parse_with_overrides(parser, example="data.root=IMAGES optimizer.epochs=10")


def preview(config: RunConfig, arguments: argparse.Namespace, why: str, listed: Source | None) -> None:
    """What --show-views and --dry-run ask for, by the first rank alone; the images are looked through once."""
    from pretrain.data.stream import open_stream
    from pretrain.run.ranks import Ranks, described_ranks

    ranks = described_ranks()
    if not ranks.is_main:
        return
    if why:
        print(why)
    if arguments.show_views and not arguments.show_views.parent.is_dir():
        raise ConfigError(
            f"--show-views {arguments.show_views}: no folder {arguments.show_views.parent}; name one that exists"
        )
    stream = open_stream(config, ranks=Ranks(), announce=print, listed=listed)
    if arguments.show_views:
        stream.draw_sheet(arguments.show_views)
        print(f"wrote {arguments.show_views}")
    if arguments.dry_run:
        from pretrain.dry_run import describe

        print(describe(config, stream, ranks=ranks))


def main() -> None:
    with ending_on_sigterm():  # until there is something to save, and after it
        run_arguments()


def run_arguments() -> None:
    """What the command line asks for."""
    arguments = parse_arguments()
    from pretrain.config import load_run_config, method_label, to_plain
    from pretrain.data.default_run import default_run
    from pretrain.run.slurm import slurm_options, submit

    slurm = slurm_options(arguments)
    here = [f"--{name}" for name in ("dry-run", "show-views", "profile") if getattr(arguments, name.replace("-", "_"))]
    if slurm is not None and here:
        raise ConfigError(f"{here[0]} runs here, not as a job of Slurm; leave out --slurm, or {here[0]}")
    if arguments.config_file is not None:
        config, why = load_run_config(arguments.config_file, arguments.overrides, method=arguments.method), ""
        listed = None
    else:
        config, why, listed = default_run(arguments.overrides, method=arguments.method, output_dir=arguments.output_dir)
    if arguments.dry_run or arguments.show_views:
        preview(config, arguments, why, listed)
        return
    if arguments.output_dir is None and not arguments.profile:
        raise ConfigError("no --output-dir given; name a folder for the run, for example --output-dir runs/infomin")
    if slurm is not None:
        workers = config.data.num_workers
        print(submit(slurm, sys.argv, output_dir=arguments.output_dir, num_workers=workers))
        return
    from pretrain.run.ranks import start_ranks, stop_ranks
    from pretrain.train import train

    ranks = start_ranks(config.runtime.device, timeout_s=config.runtime.timeout_s)
    logging.basicConfig(level=logging.INFO if ranks.is_main else logging.WARNING, format="%(message)s")
    for line in filter(None, (why, f"method {method_label(to_plain(config))}")):
        logging.getLogger(__name__).info(line)
    if arguments.profile:
        from pretrain.profile import profile

        table = profile(config, ranks=ranks, listed=listed)
        stop_ranks(ranks)
        if ranks.is_main:
            print(table)
        return
    try:
        result = train(
            config, output_dir=arguments.output_dir, resume=arguments.resume == "auto", ranks=ranks, listed=listed
        )
    except Terminated:  # on every rank
        stop_ranks(ranks)
        raise
    stop_ranks(ranks)  # not after an error of this rank alone: nccl would wait here for ranks that wait for this one
    if ranks.is_main and result:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in result["final"].items())
        print(
            f"finished: {result['steps']} steps; {figures}\ncheckpoint: {arguments.output_dir / result['checkpoint']}"
        )


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
