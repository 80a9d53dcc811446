"""Sweep along a family of views: information between the two views against the accuracy of what is learned from them.

python tools/sweep_views.py --config-file configs/sweep/small_crop.yaml --output-dir runs/crop data=DATA 'seeds=[0,1]'

The same by flags, which are shorthands for the file's keys:

python tools/sweep_views.py --family crop --data DATA --output-dir runs/sweep_crop --seeds 0 1 \
    --pretrain-config configs/views/small_cifar.yaml --linear-config configs/views/small_cifar_readout.yaml

DATA holds train/ (pre-training) and val/ (held-out pairs); for the readout both have class folders, as tools/linear_eval.py
reads them. For each setting and seed: pre-train, measure I_NCE on val/, evaluate. A second run reuses what is done.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import shlex
from typing import Any

from pretrain.base.command_line import parse_seeds, parse_with_overrides, user_path
from pretrain.base.errors import ConfigError, run_tool


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=user_path, help="a file of configs/sweep/ or your own")
    parser.add_argument("--output-dir", type=user_path, required=True, help="everything the sweep makes goes here")
    parser.add_argument("--dry-run", action="store_true", help="print every command and stop")
    flags = parser.add_argument_group(
        "shorthands", "each for the key of the file in brackets, and over what the file says"
    )
    flags.add_argument("--family", help="crop, jitter, blur, frequency, distance, colour or stacking (family)")
    flags.add_argument("--data", type=user_path, help="folder with train/ and val/ (data)")
    flags.add_argument(
        "--settings", nargs="+", help="of the family, for example 0.08 0.2 0.4 (settings; default: the paper's)"
    )
    flags.add_argument("--seeds", nargs="+", help="for example 0 1 2 (seeds; default: 0)")
    flags.add_argument(
        "--pretrain-config",
        type=user_path,
        help="for tools/pretrain.py; of family colour, for tools/evaluate_views.py (pretrain.config_file)",
    )
    flags.add_argument(
        "--measure-batch",
        type=int,
        help="held-out pairs a batch: the ceiling is its log (measure_batch; default: 256)",
    )
    flags.add_argument(
        "--downstream",
        choices=("readout", "detection", "none"),
        help="none: information alone (downstream; default: readout)",
    )
    flags.add_argument(
        "--readout-data", type=user_path, help="class folders train/ and val/ (readout.data; default: --data)"
    )
    flags.add_argument(
        "--linear-config",
        type=user_path,
        help="for tools/linear_eval.py (readout.config_file; default: the paper's protocol)",
    )
    flags.add_argument(
        "--detect-config",
        type=user_path,
        help="a Detectron2 configuration, for tools/train_net.py (detection.config_file)",
    )
    flags.add_argument(
        "--train-data", metavar="SPEC", help="labelled images, as tools/train_net.py takes them (detection.train_data)"
    )
    flags.add_argument("--test-data", metavar="SPEC", help="labelled images to evaluate on (detection.test_data)")
    example = (
        "'seeds=[0,1]' (keys of the sweep's file) or optimizer.epochs=10 (every other key goes to the pre-training)"
    )
    return parse_with_overrides(parser, example=example, lists=("settings", "seeds"))


def flag_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, as the nested values of a sweep's file."""
    detection = {
        "config_file": arguments.detect_config,
        "train_data": arguments.train_data,
        "test_data": arguments.test_data,
    }
    if any(detection.values()) and not all(detection.values()):
        raise ConfigError("--detect-config, --train-data and --test-data belong together")
    values: dict[str, Any] = {
        "family": arguments.family,
        "data": arguments.data,
        "settings": arguments.settings,
        "seeds": arguments.seeds and parse_seeds(arguments.seeds),
        "pretrain": {"config_file": arguments.pretrain_config},
        "measure_batch": arguments.measure_batch,
        "downstream": arguments.downstream,
        "readout": {"data": arguments.readout_data, "config_file": arguments.linear_config},
        "detection": detection,
    }
    return given(values)


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is None or an empty list or group, at every depth."""
    kept = {key: given(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in kept.items() if value not in (None, [], {})}


def say(text: str) -> None:
    """One message at once, in order with what the commands print."""
    print(text, flush=True)


def main() -> int:
    """Exit code: 0, or that of a command that failed."""
    arguments = parse_arguments()
    flags = flag_values(arguments)
    from transfer.compare.sweep import run_sweep, show_sweep
    from transfer.compare.sweep_config import load_sweep

    sweep = load_sweep(arguments.config_file, flags=flags, overrides=arguments.overrides)
    if arguments.dry_run:
        show_sweep(sweep, arguments.output_dir, say=say)
        return 0
    command = shlex.join(["python", *sys.argv])
    return run_sweep(sweep, arguments.output_dir, say=say, out=sys.stdout.buffer, command=command)


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
