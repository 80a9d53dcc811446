"""Linear readout of a frozen encoder: top-1 and top-5 on class folders.

python tools/linear_eval.py --weights runs/infomin/checkpoints/step_00001000.pt --data DATA --output-dir runs/readout \
    --init-name infomin
python tools/linear_eval.py --weights random:resnet18 --data DATA --config-file configs/linear/small_64px.yaml seed=1

DATA holds train/CLASS/*.jpg and val/CLASS/*.jpg. Without a configuration file: the paper's protocol.
"""

import sys

sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import os
import shlex

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
    parser.add_argument("--config-file", type=user_path, help="a file of configs/linear/ or your own")
    parser.add_argument(
        "--output-dir", type=user_path, help="where linear_result.json goes; without it the result is only printed"
    )
    parser.add_argument(
        "--init-name", help="name of the row in the report, e.g. infomin (default: read from the weights)"
    )
    parser.add_argument("--branch", choices=("query", "key"), help="of a checkpoint with two encoders (default: query)")
    return parse_with_overrides(parser, example="seed=1 image_size=64 cached_views=4")


def main() -> None:
    arguments = parse_arguments()
    from transfer.conversion.initialisation import initialisation_name
    from transfer.readout.config import load_linear_config
    from transfer.readout.run import Request, run_readout

    request = Request(
        weights=arguments.weights,
        data=arguments.data,
        config=load_linear_config(arguments.config_file, arguments.overrides),
        init=arguments.init_name or initialisation_name(arguments.weights),
        branch=arguments.branch,
        command=shlex.join(["python", *sys.argv]),
    )
    result = run_readout(request, arguments.output_dir, announce=print)
    k = result["protocol"]["top5_k"]
    print(
        f"{result['init']}: top-1 {result['top1']:.2f} %, top-{k} {result['top5']:.2f} % ({result['protocol']['name']})"
    )
    if arguments.output_dir:
        print(f"wrote {arguments.output_dir / 'linear_result.json'}")


run_tool(main)
