"""Look at a run before it starts: configuration, weights, data and leakage, as an expert would read them.

    python tools/doctor.py --config-file demo/R_18_FPN.yaml --init mine=weights/mine.pth --train-data SPEC --test-data SPEC
    python tools/doctor.py --train-data coco:TRAIN.json:IMAGES --test-data coco:TEST.json:IMAGES --pool POOL --pictures samples
    python tools/doctor.py --config-file coco/R_50_FPN_1x.yaml --init random --num-gpus 1 --json findings.json SOLVER.IMS_PER_BATCH 4

Takes what train_net.py takes, and trains nothing. Out: one line a finding, the worst first, with the line to change below it, and a
summary. Exit code: 0 no error found (perhaps warnings), 1 at least one error, 2 something cannot be read at all.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)  # Detectron2's, while it is imported

from pretrain.base.atomic import write_json
from pretrain.base.command_line import user_path
from pretrain.base.errors import run_tool
from transfer.data.findings import exit_code, finding_lines
from transfer.detect.command_line import add_run_arguments, run_options

SHOWN = 20  # findings of one id; --json has all


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="a family of transfer/configs, or a file of yours"
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--pool", metavar="IMAGES", help="unlabelled images of the pre-training: folder, list, archive or SPEC"
    )
    parser.add_argument(
        "--allow-leaks", action="store_true", help="test images in the pool are a warning, not an error"
    )
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes of the training (default: 1)")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="all findings, counts and sizes a class")
    parser.add_argument(
        "--pictures", type=user_path, metavar="DIR", help="folder for a picture of samples of each split"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="as in train_net.py")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    from transfer.detect.examination import examine

    options = run_options(arguments, num_processes=max(1, arguments.num_gpus))
    found = examine(options, pool=arguments.pool, pictures=arguments.pictures, allow_leaks=arguments.allow_leaks)
    for note in found.notes:
        print(f"set      {note}")
    for role, report in found.reports.items():
        print(f"{role}: {report.table()}")
    for line in finding_lines(found.findings, most=SHOWN, rest="--json FILE has all"):
        print(line)
    print(found.summary)
    if arguments.json is not None:
        write_json(Path(arguments.json), found.document(options.command))
    return exit_code(found.findings)


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
