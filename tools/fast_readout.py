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
import os

from pretrain.base.command_line import parse_with_overrides, user_path
from pretrain.base.errors import run_tool


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--weights",
        type=os.path.expanduser,
        required=True,
        help="a checkpoint of any known layout, or random:ARCH (random:resnet18)",
    )
    parser.add_argument("--data", type=user_path, required=True, help="folder with class folders train/ and val/")
    parser.add_argument(
        "--config-file", type=user_path, help="a file of configs/fast_readout/ or your own (default: centre)"
    )
    parser.add_argument(
        "--output-dir", type=user_path, help="where record.json goes; without it the result is only printed"
    )
    parser.add_argument(
        "--features", type=user_path, help="folder that features are kept in (default: features/ in INFOMIN_CACHE)"
    )
    parser.add_argument("--init-name", help="name of the row in the report (default: read from the weights)")
    parser.add_argument("--branch", help="of a checkpoint with several encoders: query, key, ... (default: its first)")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read instead of refusing the data; says how many, of train and val",
    )
    return parse_with_overrides(parser, example="view=augmented num_views=4 fractions=[0.1]")


def main() -> None:
    arguments = parse_arguments()
    from pretrain.base.record import RECORD, this_command
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
    assert record.initialisation is not None
    for name, value in record.figures.items():
        print(f"{record.initialisation.name}: {name} {'not measured' if value is None else f'{value:.2f} %'}")
    if arguments.output_dir:
        print(f"wrote {arguments.output_dir / RECORD}")


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
