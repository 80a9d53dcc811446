"""Sweep along a family of views: information between the two views against the accuracy of what is learned from them.

python tools/sweep_views.py --family crop --data DATA --output-dir runs/sweep_crop --seeds 0 1 \
    --pretrain-config configs/views/small_cifar.yaml --linear-config configs/views/small_cifar_readout.yaml

DATA holds train/ (pre-training) and val/ (held-out pairs); for the readout both have class folders, as tools/linear_eval.py
reads them. For each setting and seed: pre-train, measure I_NCE on val/, evaluate. A second run reuses what is done.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import parse_seeds, parse_with_overrides, user_path
from pretrain.base.errors import ConfigError, run_tool


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", required=True, help="crop, jitter, blur, frequency, distance, colour or stacking")
    parser.add_argument("--data", type=user_path, required=True, help="folder with train/ and val/")
    parser.add_argument("--output-dir", type=user_path, required=True, help="everything the sweep makes goes here")
    parser.add_argument("--settings", nargs="+", help="of the family, for example 0.08 0.2 0.4 (default: the paper's)")
    parser.add_argument("--seeds", nargs="+", default=["0"], help="for example 0 1 2 (default: 0)")
    parser.add_argument(
        "--pretrain-config", type=user_path, help="for tools/pretrain.py; of family colour, for tools/evaluate_views.py"
    )
    parser.add_argument("--measure-batch", type=int, default=256, help="held-out pairs a batch: the ceiling is its log")
    parser.add_argument(
        "--downstream", choices=("readout", "detection", "none"), default="readout", help="none: information alone"
    )
    readout = parser.add_argument_group("readout")
    readout.add_argument("--readout-data", type=user_path, help="class folders train/ and val/ (default: --data)")
    readout.add_argument(
        "--linear-config", type=user_path, help="for tools/linear_eval.py (default: the paper's protocol)"
    )
    detection = parser.add_argument_group("detection")
    detection.add_argument("--detect-config", type=user_path, help="a Detectron2 configuration, for tools/train_net.py")
    detection.add_argument("--train-data", metavar="SPEC", help="labelled images, as tools/train_net.py takes them")
    detection.add_argument("--test-data", metavar="SPEC", help="labelled images to evaluate on")
    parser.add_argument("--dry-run", action="store_true", help="print every command and stop")
    return parse_with_overrides(parser, example="optimizer.epochs=10", lists=("settings", "seeds"))


def say(text: str) -> None:
    """One message at once, in order with what the commands print."""
    print(text, flush=True)


def main() -> int:
    """Exit code: 0, or that of a command that failed."""
    arguments = parse_arguments()
    given = (arguments.detect_config, arguments.train_data, arguments.test_data)
    if any(given) and not all(given):
        raise ConfigError("--detect-config, --train-data and --test-data belong together")
    from pretrain.base.config_files import find_config
    from transfer.compare.sweep import run_sweep, show_sweep
    from transfer.compare.sweep_config import DetectionPart, build_sweep

    config = build_sweep(
        family=arguments.family,
        settings=arguments.settings or None,
        seeds=parse_seeds(arguments.seeds),
        data=arguments.data,
        pretrain_config=arguments.pretrain_config and find_config(arguments.pretrain_config, "views", "pretrain"),
        overrides=arguments.overrides,
        downstream=arguments.downstream,
        readout_data=arguments.readout_data,
        linear_config=arguments.linear_config and find_config(arguments.linear_config, "linear", "views"),
        detection=DetectionPart(*given) if all(given) else None,
        measure_batch=arguments.measure_batch,
    )
    if arguments.dry_run:
        show_sweep(config, arguments.output_dir, say=say)
        return 0
    return run_sweep(config, arguments.output_dir, say=say, out=sys.stdout.buffer)


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
