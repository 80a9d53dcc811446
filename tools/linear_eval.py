"""Linear readout of a frozen encoder by a published protocol: top-1 and top-5 on class folders.

python tools/linear_eval.py --weights weights/mine.pth --data DATA --output-dir runs/readout
python tools/linear_eval.py --weights random:resnet18 --data DATA --config-file small_64px seed=1

DATA holds train/CLASS/*.jpg and val/CLASS/*.jpg. Without a configuration file: the paper's protocol for 50,000 training images or
more (--config-file imagenet_r50), else a small readout at the encoder's image size (--config-file small); it is printed which.
MoCo's protocol: --config-file imagenet_r50_moco. Many rates at once, kNN and few labels, on features encoded once: tools/fast_readout.py.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import parse_with_overrides
from pretrain.base.errors import run_tool
from transfer.readout.command_line import add_class_folders, add_readout_arguments, where_written


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_readout_arguments(parser, configs="configs/linear/ or your own")
    add_class_folders(parser)
    return parse_with_overrides(parser, example="seed=1 image_size=64 cached_views=4")


def main() -> None:
    arguments = parse_arguments()
    from pretrain.base.record import this_command
    from transfer.readout.config import load_linear_config
    from transfer.readout.defaults import default_readout
    from transfer.readout.run import Request, run_readout

    if arguments.config_file is not None:
        config = load_linear_config(arguments.config_file, arguments.overrides)
    else:
        config, why = default_readout(arguments.weights, arguments.data, arguments.overrides)
        print(why)
    request = Request(
        weights=arguments.weights,
        data=arguments.data,
        config=config,
        init=arguments.init_name,
        branch=arguments.branch,
        command=this_command(),
        skip_unreadable=arguments.skip_unreadable,
    )
    record = run_readout(request, arguments.output_dir, announce=print)
    assert record.initialisation is not None
    protocol, figures = record.details["protocol"], record.figures
    print(
        f"{record.initialisation.name}: top-1 {figures['top1']:.2f} %, top-{protocol['top5_k']} {figures['top5']:.2f} % "
        f"({protocol['name']})"
    )
    for line in where_written(arguments.output_dir):
        print(line)


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
