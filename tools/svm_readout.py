"""Multi-label SVM readout of a frozen encoder: mean AP of one linear SVM a class, as of VOC07 classification.

python tools/svm_readout.py --weights weights/mine.pth --train-data voc:VOC2007:trainval --test-data voc:VOC2007:test \\
  --output-dir runs/svm

Features of the centre crops are kept for the next call. Any labelled data that tools/train_net.py reads will do.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import parse_with_overrides
from pretrain.base.errors import run_tool
from transfer.readout.command_line import add_features, add_readout_arguments, named_figures, where_written


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_readout_arguments(parser, configs="configs/svm_readout/ or your own")
    add_features(parser)
    parser.add_argument("--train-data", required=True, help="SPEC of the training images: voc:ROOT:SPLIT or another")
    parser.add_argument("--test-data", required=True, help="SPEC of the test images")
    return parse_with_overrides(parser, example="image_size=64 costs=[0.1,1,10]")


def main() -> None:
    arguments = parse_arguments()
    from pretrain.base.record import this_command
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
    print("\n".join([*named_figures(record), *where_written(arguments.output_dir)]))


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
