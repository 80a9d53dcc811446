"""What the commands of detectors read alike: the user's data and what a detector starts from, or which trained one is meant.

In: a parser, to which arguments are added; what it parsed. Out: `RunOptions`.
"""

from __future__ import annotations

import argparse
from typing import Any

from pretrain.base.record import this_command
from transfer.data.problems import ReadOptions
from transfer.data.spec import FORMS, parse_class_names
from transfer.detect.options import RunOptions


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run_options` reads, less `--config-file` and the KEY VALUE words (`opts`): of a run, or of a look at one."""
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
    parser.add_argument("--large-images", action="store_true", help="allow images of more than 50 megapixels")
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


def run_options(arguments: argparse.Namespace, *, skip_unreadable: bool = False, **more: Any) -> RunOptions:
    """What was parsed, with further fields of `RunOptions`. skip_unreadable: leave images out that cannot be decoded."""
    return RunOptions(
        config_file=arguments.config_file,
        overrides=tuple(arguments.opts),
        train_data=arguments.train_data,
        test_data=arguments.test_data,
        read=ReadOptions(
            crowd_as_objects=arguments.crowd_as_objects,
            keep_crowds=arguments.keep_crowds,
            skip_unreadable=skip_unreadable,
            large_images=arguments.large_images,
            class_names=arguments.classes,
        ),
        trust=arguments.trust,
        init=arguments.init,
        command=this_command(),
        scale=arguments.scale,
        modules=tuple(arguments.modules),
        **more,
    )


def add_detector_arguments(parser: argparse.ArgumentParser, *, example: str) -> None:
    """Which trained detector: `detector`, `config_file`, `classes`, `opts`. example: of KEY VALUE words."""
    parser.add_argument(
        "detector", metavar="RUN_OR_WEIGHTS", help="output folder of tools/train_net.py, or a weight file"
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="family of transfer/configs or Detectron2 YAML of the weights (default: the config.yaml beside them)",
    )
    parser.add_argument(
        "--classes",
        type=parse_class_names,
        metavar="NAMES|FILE",
        help="the classes in the order of the outputs, where the weights hold no names: joined by commas, or a file with one a line",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help=f"configuration keys, last on the line: --opts {example}",
    )
