"""Fetch public data sets, check them, and lay them out as our commands and Detectron2 read them.

    python tools/prepare_data.py voc2007 voc2012 --root data            # for DETECTRON2_DATASETS=data too
    python tools/prepare_data.py coco2017 --root data --dry-run         # what would be fetched, and the disk it needs
    python tools/prepare_data.py imagenet --root data --archives TARS   # your own archives: ImageNet needs a login
    python tools/prepare_data.py voc2007 --root data --verify           # reads all of it; lists every problem

Whatever stops it, the same command goes on where it was. Every archive is compared with its published checksum, wherever it comes
from. Proxies are those of the environment (https_proxy). Exit code: 0 sound, 1 something is wrong with the data, 2 it could not be
done.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import user_path
from pretrain.base.errors import run_tool
from transfer.data.public.report import Request, run_request, table_text


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=table_text(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="one or several of the list below")
    parser.add_argument("--root", type=user_path, required=True, help="the folder that holds all data sets")
    parser.add_argument(
        "--archives", type=user_path, metavar="DIR", help="take archives from this folder where it has them"
    )
    parser.add_argument(
        "--base-url", metavar="URL", help="fetch URL/ARCHIVE from a server of yours; checksums stay the published ones"
    )
    parser.add_argument(
        "--delete-archives", action="store_true", help="remove ROOT/archives/ARCHIVE once its folder is there"
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--verify", action="store_true", help="fetch nothing; read what is there and list every problem")
    modes.add_argument("--dry-run", action="store_true", help="fetch nothing; say what would be done")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    return run_request(Request(**vars(arguments)), lambda line: print(line, flush=True))


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
