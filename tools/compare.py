"""Is it better on my images, and by how much? Own pre-training against random and other weights, on one's own labels.

python tools/compare.py --pool IMAGES --train coco:LABELS.json:IMAGES --init mine=pretrain --init random --budget 2h --output-dir runs/mine
python tools/compare.py --config-file configs/study/demo.yaml --output-dir runs/demo

Flags are shorthands for the keys of a study file (configs/study/own_data.yaml has every one, with `base:`) and go over it;
key=value words go over both. Where no --test is given a stratified part of --train is held out; test images are left out of the
pool. What is not given (detector, image size, anchors, epochs, iterations) is chosen by the images and the budget, and printed.
The same command again goes on where it stopped. --dry-run measures a few steps of each kind and says how long all will take.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import parse_with_overrides, user_path
from pretrain.base.errors import run_tool


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=user_path, help="a file of configs/study/ or your own")
    parser.add_argument("--output-dir", type=user_path, required=True, help="everything the study makes goes here")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print every command, measure a few steps, say how long it will take, and stop",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 unless every expectation of the study is held"
    )
    flags = parser.add_argument_group("shorthands", "each for the key of the study file in brackets")
    flags.add_argument("--pool", metavar="IMAGES", help="unlabelled images: folder, list, archive or shards (pool)")
    flags.add_argument(
        "--train", metavar="SPEC", help="coco:FILE.json:IMAGES, voc:ROOT:SPLIT, yolo:FILE:SPLIT (detect.train_data)"
    )
    flags.add_argument("--test", metavar="SPEC", help="default: a part of --train (detect.test_data)")
    flags.add_argument(
        "--readout", metavar="FOLDER", help="class folders, with or without train/ and val/ (readout.data)"
    )
    flags.add_argument(
        "--init",
        action="append",
        metavar="NAME=WHAT",
        help="NAME=pretrain, random, NAME=FILE of any known checkpoint, or a catalog name (msra_r50); repeatable (inits)",
    )
    flags.add_argument("--seeds", type=int, metavar="N", help="fine-tunings and readouts of each row, seeds 0 to N-1")
    flags.add_argument("--pretrain-seeds", type=int, metavar="N", help="pre-trainings, seeds 0 to N-1 (pretrain.seeds)")
    flags.add_argument("--fractions", nargs="+", metavar="F", help="of the labels, for example .1 1")
    flags.add_argument("--budget", metavar="TIME", help="2h, 90m: decides epochs and iterations (budget)")
    flags.add_argument(
        "--baseline", metavar="NAME", help="what the others are compared with (baseline; default: random)"
    )
    places = parser.add_argument_group("where it runs; the plan is the same")
    places.add_argument("--executor", choices=("local", "slurm"), default="local", help="this machine, or Slurm jobs")
    places.add_argument("--partition", metavar="NAME", help="of Slurm")
    places.add_argument("--gpus-per-job", type=int, choices=(0, 1), help="with --executor slurm (default 1)")
    places.add_argument(
        "--time", metavar="[D-]HH:MM:SS", help="of one job (default 24:00:00); it is requeued until it is done"
    )
    places.add_argument("--sbatch", action="append", metavar="KEY=VALUE", help="another option of sbatch")
    return parse_with_overrides(parser, example="'detect.seeds=[0,1]'", lists=["fractions"])


def say(text: str) -> None:
    """One message at once, in order with what the commands print."""
    print(text, flush=True)


def main() -> int:
    """Exit code: 0; that of a stage that failed; 1 with --check unless every expectation is held."""
    arguments = parse_arguments()
    from transfer.compare.study_flags import executor_of, study_of

    executor = executor_of(arguments, say=say)  # a mistake there costs no reading of data
    config = study_of(arguments)
    from transfer.compare.study import run_study, show_study

    if arguments.dry_run:
        show_study(config, arguments.output_dir, say=say)
        return 0
    code, verdicts = run_study(config, arguments.output_dir, say=say, out=sys.stdout.buffer, executor=executor)
    if code == 0 and arguments.check and not all(verdict.held for verdict in verdicts):
        return 1
    return code


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
