"""One page, one Markdown file and one CSV out of run directories.

python tools/report.py runs/study --output runs/study/report
python tools/report.py runs/pretrain runs/detect_random runs/detect_infomin --output report
python tools/report.py runs --baseline supervised --subject mine --output report

report.csv is the long table: one line a figure of a finished run.

Each argument is a run directory, a record of a single file, or a folder that holds some at any depth. A copy of a run counts
once with it. An older report in the output folder is replaced.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import user_path
from pretrain.base.errors import run_tool


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="+", type=user_path, metavar="RUN", help="run directory, or a folder that holds some"
    )
    parser.add_argument("--output", type=user_path, required=True, help="folder for index.html, report.md, report.csv")
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="initialisation that the others are compared with (default: random, if it is there)",
    )
    parser.add_argument(
        "--subject", metavar="NAME", help="initialisation that the headline speaks of (default: the own pre-training's)"
    )
    parser.add_argument(
        "--study",
        type=user_path,
        metavar="DIR",
        help="folder of a study of tools/compare.py: its labelled images (doctor.json) and the time of its stages are shown too",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    from transfer.compare.page import write_report

    files = write_report(
        arguments.runs,
        arguments.output,
        baseline=arguments.baseline,
        subject=arguments.subject,
        study=arguments.study,
    )
    unfinished = f", {files.num_unfinished} of them unfinished" if files.num_unfinished else ""
    copies = f"; {files.num_copies} copies of them left out" if files.num_copies else ""
    print(f"{files.num_runs} runs{unfinished}{copies}\nwrote {files.html}\nwrote {files.markdown}\nwrote {files.csv}")


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
