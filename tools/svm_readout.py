"""Multi-label SVM readout of a frozen encoder: mean AP of one linear SVM a class, as of VOC07 classification.

python tools/svm_readout.py --weights weights/mine.pth --train-data voc:VOC2007:trainval --test-data voc:VOC2007:test \\
  --output-dir runs/svm

Features of the centre crops are kept for the next call. Any labelled data that tools/train_net.py reads will do.
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
    parser.add_argument("--train-data", required=True, help="SPEC of the training images: voc:ROOT:SPLIT or another")
    parser.add_argument("--test-data", required=True, help="SPEC of the test images")
    parser.add_argument("--config-file", type=user_path, help="a file of configs/svm_readout/ or your own")
    parser.add_argument(
        "--output-dir", type=user_path, help="where record.json goes; without it the result is only printed"
    )
    parser.add_argument(
        "--features", type=user_path, help="folder that features are kept in (default: features/ in INFOMIN_CACHE)"
    )
    parser.add_argument("--init-name", help="name of the row in the report (default: read from the weights)")
    parser.add_argument("--branch", help="of a checkpoint with several encoders: query, key, ... (default: its first)")
    return parse_with_overrides(parser, example="image_size=64 costs=[0.1,1,10]")


def main() -> None:
    arguments = parse_arguments()
    from pretrain.base.record import RECORD, this_command
    from transfer.readout.svm_config import load_svm_config
    from transfer.readout.svm_run import SvmRequest, run_svm_readout

    request = SvmRequest(
        weights=arguments.weights,
        train_data=arguments.train_data,
        test_data=arguments.test_data,
        config=load_svm_config(arguments.config_file, arguments.overrides),
        init=arguments.init_name,
        branch=arguments.branch,
        command=this_command(),
        features=arguments.features,
    )
    record = run_svm_readout(request, arguments.output_dir, announce=print)
    assert record.initialisation is not None
    for name, value in record.figures.items():
        print(f"{record.initialisation.name}: {name} {value:.2f} %")
    if arguments.output_dir:
        print(f"wrote {arguments.output_dir / RECORD}")


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
