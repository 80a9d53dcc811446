"""Colorful Moving-MNIST: train two encoders on views that share chosen factors, and probe what they have learned.

python tools/moving_mnist.py --digits torchvision:data --backgrounds torchvision:data --output-dir runs/moving_mnist \
    --config-file configs/views/moving_mnist.yaml
python tools/moving_mnist.py --digits mnist10k.npz --backgrounds cifar10 --output-dir runs/small --seeds 0 1 2 \
    --config-file configs/views/moving_mnist_small.yaml --sharing digit digit,position training.steps=300

Digits: an .npz file with images uint8 (N, 28, 28) and labels (N,). Backgrounds: DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg,
or DIR/CLASS/*.jpg. `torchvision:DIR` downloads MNIST or STL-10 into DIR. A second run goes on where the first one ended.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import os

from pretrain.base.command_line import parse_seeds, parse_with_overrides, user_path
from pretrain.base.errors import run_tool


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    from pretrain.good_views.moving_mnist.factors import ALL

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=os.path.expanduser, required=True, help="FILE.npz or torchvision:DIR")
    parser.add_argument(
        "--backgrounds", type=os.path.expanduser, required=True, help="a folder of class folders or torchvision:DIR"
    )
    parser.add_argument(
        "--output-dir", type=user_path, required=True, help="cells/, results.json, table.md, samples.png"
    )
    parser.add_argument("--config-file", type=user_path, help="a file of configs/views/ or your own")
    parser.add_argument(
        "--sharing",
        nargs="+",
        default=[ALL],
        help="factors joined by commas, e.g. digit digit,position; or all (default)",
    )
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"], help="default: 0 1 2")
    return parse_with_overrides(parser, example="training.steps=300", lists=("sharing", "seeds"))


def say(text: str) -> None:
    """One message at once."""
    print(text, flush=True)


def main() -> None:
    """Raises UserError for what cannot be used; what was typed is checked before anything is read."""
    arguments = parse_arguments()
    from pretrain.good_views.moving_mnist.config import load_moving_mnist_config
    from pretrain.good_views.moving_mnist.factors import parse_sharings

    config = load_moving_mnist_config(arguments.config_file, arguments.overrides)
    sharings, seeds = parse_sharings(arguments.sharing), parse_seeds(arguments.seeds)
    from pretrain.good_views.moving_mnist.experiment import run_experiment

    run_experiment(
        digits=arguments.digits,
        backgrounds=arguments.backgrounds,
        config=config,
        sharings=sharings,
        seeds=seeds,
        output_dir=arguments.output_dir,
        announce=say,
    )
    say((arguments.output_dir / "table.md").read_text(encoding="utf-8"))


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
