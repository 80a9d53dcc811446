"""Make the demo data set: unlabelled object-centred images and labelled scenes (COCO and VOC layouts), no download.

    python tools/make_demo_data.py --output-dir data/demo --overview data/demo.png

In: counts, sizes, seed. Out: the folder, whole or not at all; a second run with the same options reuses it.
"""

import sys

if __name__ == "__main__":  # worker processes import this file again with the path already right
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import os
from dataclasses import fields
from pathlib import Path

import cv2
from tqdm import tqdm

from pretrain.base.atomic import atomic_file
from pretrain.base.command_line import user_path
from pretrain.base.errors import DataError, run_tool
from transfer.demo_data.config import SyntheticConfig
from transfer.demo_data.overview import draw_overview
from transfer.demo_data.write import is_complete, write_dataset


def parse_arguments() -> argparse.Namespace:
    """Command line; every field of SyntheticConfig is an option of its name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=user_path, required=True)
    parser.add_argument("--num-workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    parser.add_argument("--overview", type=user_path, help="also write a contact sheet to this .png")
    for field in fields(SyntheticConfig):
        kind = float if isinstance(field.default, float) else int
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(
            name, type=kind, default=field.default, metavar=kind.__name__.upper(), help=f"default {field.default}"
        )
    return parser.parse_args()


def write_overview(config: SyntheticConfig, path: Path) -> None:
    """Draw the contact sheet into `path` (.png)."""
    if path.suffix.lower() != ".png":
        raise DataError(f"--overview: expected a path that ends in .png, found {path}")
    _, data = cv2.imencode(".png", cv2.cvtColor(draw_overview(config), cv2.COLOR_RGB2BGR))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(data.tobytes())
    except OSError as error:
        raise DataError(f"--overview {path}: expected a path that can be written, found: {error.strerror}") from error


def main() -> int:
    """Generate or reuse, then report."""
    arguments = parse_arguments()
    config = SyntheticConfig(**{field.name: getattr(arguments, field.name) for field in fields(SyntheticConfig)})
    if is_complete(arguments.output_dir, config):
        print(f"{arguments.output_dir}: already complete, reused")
    else:
        with tqdm(desc="demo data", unit="image", mininterval=0.5) as bar:

            def advance(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            write_dataset(config, arguments.output_dir, num_workers=arguments.num_workers, progress=advance)
        print(f"{arguments.output_dir}: written")
    if arguments.overview is not None:
        write_overview(config, arguments.overview)
        print(f"{arguments.overview}: written")
    return 0


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
