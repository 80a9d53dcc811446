"""Fast readout of a frozen encoder: features encoded once, many linear heads in one pass, kNN, and few labels.

python tools/fast_readout.py --weights weights/mine.pth --data DATA --output-dir runs/fast
python tools/fast_readout.py --weights random:resnet18 --data DATA --config-file augmented fractions=[0.1]

DATA holds train/CLASS/*.jpg and val/CLASS/*.jpg. --config-file centre (one centre crop, the default) or augmented (ten random crops).
Features are kept for the next call. For the published protocols: tools/linear_eval.py.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import parse_with_overrides
from pretrain.base.errors import run_tool
from transfer.readout.command_line import (
    add_class_folders,
    add_features,
    add_readout_arguments,
    named_figures,
    where_written,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_readout_arguments(parser, configs="configs/fast_readout/ or your own (default: centre)")
    add_class_folders(parser)
    add_features(parser)
    return parse_with_overrides(parser, example="view=augmented num_views=4 fractions=[0.1]")


def main() -> None:
    arguments = parse_arguments()
    from pretrain.base.record import this_command
    from transfer.readout.fast_config import load_fast_config
    from transfer.readout.fast_run import FastRequest, run_fast_readout

    request = FastRequest(
        weights=arguments.weights,
        data=arguments.data,
        config=load_fast_config(arguments.config_file, arguments.overrides),
        init=arguments.init_name,
        branch=arguments.branch,
        command=this_command(),
        skip_unreadable=arguments.skip_unreadable,
        features=arguments.features,
    )
    record = run_fast_readout(request, arguments.output_dir, announce=print)
    print("\n".join([*named_figures(record), *where_written(arguments.output_dir)]))


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
