"""Fine-tune or evaluate a detector.

    python tools/train_net.py --config-file voc/R_50_C4_24k_infomin.yaml --num-gpus 8 OUTPUT_DIR runs/voc_infomin
    python tools/train_net.py --config-file demo/R_18_FPN_random.yaml \
        --train-data coco:TRAIN.json:IMAGES --test-data coco:TEST.json:IMAGES OUTPUT_DIR runs/mine

Takes Detectron2's own flags (--config-file --num-gpus --resume --eval-only --num-machines ... KEY VALUE) and a SPEC for
one's own data: coco:ANNOTATIONS.json:IMAGE_DIR or voc:ROOT:SPLIT. A configuration is looked for as given, then in
transfer/configs. Out: a table of AP, AP50 and AP75, and in OUTPUT_DIR Detectron2's files, result.json and samples.json; exit
code 2 and one message for an input that cannot be used. `--eval-only --resume` evaluates OUTPUT_DIR's newest checkpoint into OUTPUT_DIR/evaluation.
"""

import sys

if __name__ == "__main__":  # worker processes import this file again with the path already right
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import shlex
import warnings

warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)  # Detectron2's, while it is imported

import torch
from detectron2.engine import default_argument_parser, launch
from torch.multiprocessing import ProcessExitedException

from pretrain.base.errors import ConfigError, run_tool
from transfer.data.spec import FORMS
from transfer.detect.run import RunOptions, check_output_dir, fetch_weights, prepare_run, run_detection


def worker(options: RunOptions) -> None:
    """One of several processes: leaves with the exit code that one process alone would have."""
    run_tool(lambda: train(options))


def train(options: RunOptions) -> None:
    run_detection(prepare_run(options))


def parse_arguments() -> argparse.Namespace:
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--train-data", metavar="SPEC", help=FORMS)
    parser.add_argument("--test-data", metavar="SPEC", help=FORMS)
    parser.add_argument(
        "--trust", action="store_true", help="use weights that have no sidecar; you vouch for their input contract"
    )
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="a Python module of yours to import first, e.g. one that registers data sets named by DATASETS.TRAIN; repeatable",
    )
    parser.add_argument(
        "--init", metavar="NAME", help="how the report labels this initialisation (default: read from the weights)"
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    devices = torch.cuda.device_count()
    processes = arguments.num_gpus * arguments.num_machines
    if processes > 1 and arguments.num_gpus > devices:
        raise ConfigError(f"--num-gpus {arguments.num_gpus}, but this machine has {devices} CUDA devices")
    options = RunOptions(
        config_file=arguments.config_file,
        overrides=tuple(arguments.opts),
        train_data=arguments.train_data,
        test_data=arguments.test_data,
        eval_only=arguments.eval_only,
        resume=arguments.resume,
        trust=arguments.trust,
        init=arguments.init,
        command=shlex.join(["python", *sys.argv]),
        num_processes=max(1, processes),
        modules=tuple(arguments.modules),
    )
    run = prepare_run(options)
    fetch_weights(run.weights.weights)
    check_output_dir(options, run.config)
    if processes <= 1:
        run_detection(run)
        return 0
    try:
        launch(
            worker,
            arguments.num_gpus,
            arguments.num_machines,
            arguments.machine_rank,
            arguments.dist_url,
            args=(options,),
        )
    except ProcessExitedException as stop:
        if stop.exit_code < 0:  # killed by a signal
            raise
        return int(stop.exit_code)  # the worker printed why
    return 0


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
