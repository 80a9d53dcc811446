"""Fine-tune or evaluate a detector.

    python tools/train_net.py --config-file voc/R_50_C4_24k.yaml --init mine=weights/mine.pth --num-gpus 8 OUTPUT_DIR runs/voc_mine
    python tools/train_net.py --config-file demo/R_18_FPN.yaml --init random \
        --train-data coco:TRAIN.json:IMAGES --test-data coco:TEST.json:IMAGES OUTPUT_DIR runs/mine

Takes Detectron2's own flags (--config-file --num-gpus --resume --eval-only --num-machines ... KEY VALUE) and a SPEC for
one's own data (coco:ANNOTATIONS.json:IMAGE_DIR, voc:ROOT:SPLIT, voc07:..., yolo:DATA.yaml:SPLIT). A configuration is looked for as given, then in
transfer/configs; it says nothing about weights: --init does, and their input (channel order, mean, std, stride) comes with them.
Out: a table of AP, AP50 and AP75, and in OUTPUT_DIR Detectron2's files, record.json and samples.json; exit
code 2 and one message for an input that cannot be used. A run that was stopped (Ctrl-C: 130, SIGTERM: 143, both save) or killed goes
on exactly when the same command is given again; model_best.pth is its best by AP. `--resume` is for
--allow-change, and evaluates a finished run once more. `--eval-only --resume` evaluates OUTPUT_DIR's newest checkpoint into OUTPUT_DIR/evaluation.
"""

import sys

if __name__ == "__main__":  # worker processes import this file again with the path already right
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import warnings

warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)  # Detectron2's, while it is imported

from detectron2.engine import default_argument_parser

from pretrain.base.command_line import user_path
from pretrain.base.errors import run_tool
from pretrain.base.signals import ending_on_sigterm
from transfer.detect.command_line import add_run_arguments, run_options
from transfer.detect.dump import dump_config
from transfer.detect.figures import figures_table
from transfer.detect.launch import AGAIN, Processes, carry_out
from transfer.detect.run import prepare_run


def parse_arguments() -> argparse.Namespace:
    parser = default_argument_parser(epilog=__doc__)
    add_run_arguments(parser)
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be decoded; their number is reported",
    )
    parser.add_argument(
        "--allow-change",
        metavar="KEY",
        action="append",
        default=[],
        help="with --resume: a key (SOLVER.MAX_ITER) that may differ from how the run began; repeatable, and recorded",
    )
    parser.add_argument(
        "--accumulate",
        metavar="K",
        type=int,
        default=1,
        help="run the images of a process in K parts, with one step for all: the published batch in the memory of a part (BatchNorm "
        "sees one part at a time; default: 1)",
    )
    parser.add_argument(
        "--dump-config",
        metavar="FILE",
        type=user_path,
        help="train nothing: write the configuration, complete, as Detectron2's own tools/train_net.py takes it",
    )
    return parser.parse_args()


def main() -> int:
    with ending_on_sigterm(AGAIN):  # until there is something to save
        return run_arguments(parse_arguments())


def run_arguments(arguments: argparse.Namespace) -> int:
    """What the command line asks for. Returns the exit code."""
    processes = Processes(arguments.num_gpus, arguments.num_machines, arguments.machine_rank, arguments.dist_url)
    options = run_options(
        arguments,
        skip_unreadable=arguments.skip_unreadable,
        eval_only=arguments.eval_only,
        resume=arguments.resume,
        allow_change=tuple(arguments.allow_change),
        num_processes=processes.count,
        num_machines=processes.num_machines,
        accumulate=arguments.accumulate,
    )
    if arguments.dump_config is not None:
        print(dump_config(options, arguments.dump_config))
        return 0
    run = prepare_run(options)
    if run.finished is not None:
        print("\n".join([f"{run.config.OUTPUT_DIR} is finished; nothing to do", *figures_table(run.finished)]))
        return 0
    return carry_out(run, processes)


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
