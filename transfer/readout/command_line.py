"""What the commands of readouts read and say alike.

In: a parser, to which arguments are added; a record. Out: lines for the screen. Imports no torch: a command parses before that.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pretrain.base.command_line import user_path
from pretrain.base.record import RECORD, Record


def add_readout_arguments(parser: argparse.ArgumentParser, *, configs: str) -> None:
    """`weights`, `config_file`, `output_dir`, `init_name`, `branch`. configs: the folder of the shipped configurations, and the default."""
    parser.add_argument(
        "--weights",
        type=os.path.expanduser,
        required=True,
        help="a checkpoint of any known layout, or random:ARCH (random:resnet18)",
    )
    parser.add_argument("--config-file", type=user_path, help=f"a file of {configs}")
    parser.add_argument(
        "--output-dir", type=user_path, help="where record.json goes; without it the result is only printed"
    )
    parser.add_argument(
        "--init-name", help="name of the row in the report, e.g. infomin (default: read from the weights)"
    )
    parser.add_argument(
        "--branch", help="of a checkpoint with several encoders: query, key, student, teacher ... (default: its first)"
    )


def add_class_folders(parser: argparse.ArgumentParser) -> None:
    """`data`, `skip_unreadable`: labelled images as class folders."""
    parser.add_argument("--data", type=user_path, required=True, help="folder with class folders train/ and val/")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read instead of refusing the data; says how many, of train and val",
    )


def add_features(parser: argparse.ArgumentParser) -> None:
    """`features`: of a readout that keeps what it encodes."""
    parser.add_argument(
        "--features", type=user_path, help="folder that features are kept in (default: features/ in INFOMIN_CACHE)"
    )


def named_figures(record: Record) -> list[str]:
    """Every figure of a readout by its name, a line each."""
    assert record.initialisation is not None
    return [
        f"{record.initialisation.name}: {name} {'not measured' if value is None else f'{value:.2f} %'}"
        for name, value in record.figures.items()
    ]


def where_written(output_dir: Path | None) -> list[str]:
    """Where the record is; nothing without a folder."""
    return [f"wrote {output_dir / RECORD}"] if output_dir is not None else []
