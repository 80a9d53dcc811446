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
from contextlib import nullcontext
from pathlib import Path

warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)  # Detectron2's, while it is imported

import torch
from detectron2.engine import default_argument_parser, launch
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from pretrain.base.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, ConfigError, Terminated, run_tool
from pretrain.base.record import RECORD, end_record, this_command
from pretrain.base.signals import ending_on_sigterm, passed_to_children
from transfer.data.problems import ReadOptions
from transfer.data.spec import FORMS, parse_class_names
from transfer.detect.dump import dump_config
from transfer.detect.options import RunOptions
from transfer.detect.run import (
    DetectionRun,
    enter_process,
    fetch_weights,
    figures_table,
    open_output_dir,
    prepare_run,
    run_detection,
)

AGAIN = "the same command goes on from the newest checkpoint"


def worker(run: DetectionRun) -> None:
    """One of several processes: leaves with the exit code that one process alone would have."""
    run_tool(lambda: train(run))


def train(run: DetectionRun) -> None:
    with ending_on_sigterm(AGAIN):
        enter_process(run)
        run_detection(run)


def train_together(run: DetectionRun, arguments: argparse.Namespace) -> int:
    """Several processes, all of them with the run that this one prepared; a stop signal goes on to them. Returns the exit code."""
    path = Path(run.config.OUTPUT_DIR) / RECORD
    with passed_to_children(AGAIN) as passed:
        try:
            launch(
                worker,
                arguments.num_gpus,
                arguments.num_machines,
                arguments.machine_rank,
                arguments.dist_url,
                args=(run,),
            )
        except ProcessException as stop:  # the worker printed why; the others were ended with it
            code = stop.exit_code if isinstance(stop, ProcessExitedException) else -1
            if passed.received is not None and code < 0:  # it was asked to stop before it could save
                code = EXIT_TERMINATED
            stopped = code in (EXIT_TERMINATED, EXIT_INTERRUPTED)
            end_record(path, "stopped" if stopped else "failed", str(stop).strip().splitlines()[0])
            if code < 0:  # a bug, or killed by a signal
                raise
            return int(code)
        except (KeyboardInterrupt, Terminated) as stop:
            end_record(path, "stopped", f"{type(stop).__name__}: {stop}")
            raise
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--train-data", metavar="SPEC", help=FORMS)
    parser.add_argument("--test-data", metavar="SPEC", help=FORMS)
    parser.add_argument(
        "--classes",
        metavar="NAMES|FILE",
        type=parse_class_names,
        help="the classes and their order: names joined by commas, or a text file with one a line (default: those of the data)",
    )
    crowds = parser.add_mutually_exclusive_group()
    crowds.add_argument(
        "--crowd-as-objects",
        action="store_true",
        help="count regions marked iscrowd as objects (CVAT marks brush masks so)",
    )
    crowds.add_argument("--keep-crowds", action="store_true", help="take them for crowds, however many there are")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be decoded; their number is reported",
    )
    parser.add_argument("--large-images", action="store_true", help="allow images of more than 50 megapixels")
    parser.add_argument(
        "--allow-change",
        metavar="KEY",
        action="append",
        default=[],
        help="with --resume: a key (SOLVER.MAX_ITER) that may differ from how the run began; repeatable, and recorded",
    )
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
        "--init",
        metavar="NAME=FILE",
        help="what to start from: converted weights under the name of their row (mine=weights/mine.pth), random, or weights that "
        "Detectron2 fetches (msra_r50, coco_r50_fpn_3x; supervised=msra_r50 to name the row). How they want their input is applied",
    )
    parser.add_argument(
        "--scale",
        choices=("none", "auto"),
        default="none",
        help="auto: batch, rate, schedule, warm-up and anchors for this number of GPUs, their memory and your data, by the linear rule "
        "from the published recipe; shown before the start, and keys given as KEY VALUE stay (default: none)",
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
        type=Path,
        help="train nothing: write the configuration, complete, as Detectron2's own tools/train_net.py takes it",
    )
    return parser.parse_args()


def main() -> int:
    with ending_on_sigterm(AGAIN):  # until there is something to save
        return run_arguments(parse_arguments())


def run_arguments(arguments: argparse.Namespace) -> int:
    """What the command line asks for. Returns the exit code."""
    devices = torch.cuda.device_count()
    processes = arguments.num_gpus * arguments.num_machines
    if processes > 1 and arguments.num_gpus > devices:
        raise ConfigError(f"--num-gpus {arguments.num_gpus}, but this machine has {devices} CUDA devices")
    options = RunOptions(
        config_file=arguments.config_file,
        overrides=tuple(arguments.opts),
        train_data=arguments.train_data,
        test_data=arguments.test_data,
        read=ReadOptions(
            crowd_as_objects=arguments.crowd_as_objects,
            keep_crowds=arguments.keep_crowds,
            skip_unreadable=arguments.skip_unreadable,
            large_images=arguments.large_images,
            class_names=arguments.classes,
        ),
        eval_only=arguments.eval_only,
        resume=arguments.resume,
        allow_change=tuple(arguments.allow_change),
        trust=arguments.trust,
        init=arguments.init,
        command=this_command(),
        num_processes=max(1, processes),
        num_machines=arguments.num_machines,
        scale=arguments.scale,
        accumulate=arguments.accumulate,
        modules=tuple(arguments.modules),
    )
    if arguments.dump_config is not None:
        print(dump_config(options, arguments.dump_config))
        return 0
    run = prepare_run(options)
    if run.finished is not None:
        print("\n".join([f"{run.config.OUTPUT_DIR} is finished; nothing to do", *figures_table(run.finished)]))
        return 0
    fetch_weights(run.weights.weights)
    # The first machine holds the folder; the others write their logs into it.
    folder = open_output_dir(run.options, run.config) if arguments.machine_rank == 0 else nullcontext()
    with folder:
        if processes > 1:
            return train_together(run, arguments)
        run_detection(run)
        return 0


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
