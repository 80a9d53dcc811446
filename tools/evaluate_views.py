"""What a pair of views is worth: information on held-out pairs, and a linear probe of encoders trained on them.

python tools/evaluate_views.py --views lab --data DATA --output-dir runs/lab --config-file configs/views/evaluation_small.yaml
python tools/evaluate_views.py --views runs/learned/generator.safetensors --data DATA --output-dir runs/views
python tools/evaluate_views.py --views runs/learned --seeds 0 1 2 ...    # seed N on the generator of seed N

DATA holds train/CLASS/*.jpg and val/CLASS/*.jpg. Writes record.json.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import os

from pretrain.base.command_line import parse_seeds, parse_with_overrides, user_path
from pretrain.base.errors import run_tool


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--views",
        type=os.path.expanduser,
        required=True,
        help="a colour space (rgb, lab, ydbdr, ...), a generator.safetensors, or the output folder of learn_views.py",
    )
    parser.add_argument("--data", type=user_path, required=True, help="folder with class folders train/ and val/")
    parser.add_argument("--output-dir", type=user_path, required=True, help="where record.json goes")
    parser.add_argument(
        "--config-file", type=user_path, help="a file of configs/views/ or your own (default: paper's scale)"
    )
    parser.add_argument("--seeds", nargs="+", default=["0"], help="one training each (default: 0), for example 0 1 2")
    return parse_with_overrides(parser, example="epochs=5 encoder.kind=small", lists=("seeds",))


def main() -> None:
    arguments = parse_arguments()
    from pretrain.base.record import RECORD, this_command
    from pretrain.good_views.view_learning.evaluation import evaluate_views, load_evaluation_config

    record = evaluate_views(
        arguments.views,
        arguments.data,
        load_evaluation_config(arguments.config_file, arguments.overrides),
        seeds=parse_seeds(arguments.seeds),
        output_dir=arguments.output_dir,
        command=this_command(),
        announce=print,
    )
    information, probe = record.details["information"], record.details["probe"]
    print(
        f"{record.details['views']}: {information['nats']:.3f} nats [{information['low']:.3f}, {information['high']:.3f}] of at most "
        f"{information['ceiling']:.2f}; top-1 {probe['top1']:.2f} %"
        + (f" [{probe['low']:.2f}, {probe['high']:.2f}]" if probe["low"] is not None else "")
    )
    print(f"wrote {arguments.output_dir / RECORD}")


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
