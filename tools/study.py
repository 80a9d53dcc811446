"""Run a whole study: data, pre-training, conversion, fine-tuning and readout of every initialisation, report.

    python tools/study.py --config-file configs/study/demo.yaml --output-dir runs/demo

A second run reuses what is done. `make demo` and `make study` call this.
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
    parser.add_argument("--config-file", type=user_path, required=True, help="a file of configs/study/ or your own")
    parser.add_argument("--output-dir", type=user_path, required=True, help="everything the study makes goes here")
    parser.add_argument("--dry-run", action="store_true", help="print every stage's command and stop")
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 unless every expectation of the study is held"
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="the initialisation to compare with (baseline; default: random)"
    )
    return parse_with_overrides(parser, example="'detect.seeds=[0,1]'")


def say(text: str) -> None:
    """One message at once, in order with what the commands print."""
    print(text, flush=True)


def main() -> int:
    """Exit code: 0; that of a stage that failed; 1 with --check unless every expectation is held."""
    arguments = parse_arguments()
    from transfer.compare.runner import show_plan
    from transfer.compare.study import plan_stages, run_study
    from transfer.compare.study_checks import check_study
    from transfer.compare.study_config import load_study

    flags = [f"baseline={arguments.baseline}"] if arguments.baseline else []
    config = load_study(arguments.config_file, [*flags, *arguments.overrides])
    check_study(config)
    if arguments.dry_run:
        show_plan(plan_stages(config), arguments.output_dir, say=say)
        return 0
    code, verdicts = run_study(config, arguments.output_dir, say=say, out=sys.stdout.buffer)
    if code == 0 and arguments.check and not all(verdict.held for verdict in verdicts):
        return 1
    return code


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
