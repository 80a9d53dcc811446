"""Convert a checkpoint to weights for Detectron2 (or another library), with proof.

    python tools/convert_weights.py runs/pretrain weights/infomin.pth       # the newest checkpoint of a run
    python tools/convert_weights.py runs/pretrain weights/over_time         # every one, into a folder
    python tools/convert_weights.py step_00015600.pt weights/infomin.onnx --to onnx
    python tools/convert_weights.py --list-sources
    python tools/convert_weights.py --inspect unknown.pth

Recognises the checkpoint by its content. Out: OUTPUT, its sidecar (.json) and the record of the conversion (.record.json), all or
none; exit code 2 when a tensor is missing, unexplained or computes something else in the target's own library. Of a folder, the
good ones are kept.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import shlex
from pathlib import Path

from pretrain.base.command_line import user_path
from pretrain.base.errors import CheckpointError, ConfigError, run_tool
from pretrain.base.record import RECORD, record_path
from transfer.conversion.convert import convert
from transfer.conversion.convert_folder import convert_folder, is_one_file
from transfer.conversion.inspection import inspect_file
from transfer.conversion.layouts import LAYOUTS
from transfer.conversion.sidecar import Sidecar, sidecar_path
from transfer.conversion.targets import DEFAULT_TARGET, TARGETS, target_named


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "input", type=user_path, nargs="?", metavar="INPUT", help="checkpoint, run, or a folder of them"
    )
    parser.add_argument(
        "output",
        type=user_path,
        nargs="?",
        metavar="OUTPUT",
        help="weights (for Detectron2: ends in .pth), or a folder of them",
    )
    targets = "; ".join(f"{target.name}: {target.description}" for target in TARGETS)
    parser.add_argument("--to", default=DEFAULT_TARGET, metavar="TARGET", help=f"library that OUTPUT is for. {targets}")
    parser.add_argument("--source", default="auto", metavar="NAME", help="layout of INPUT (default auto: by content)")
    parser.add_argument(
        "--branch",
        metavar="NAME",
        help="which copy of the encoder, for example query or key (default: the first in the list)",
    )
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="how INPUT was trained, for example dino or supervised: names it in tables (default: what a file of ours says)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument(
        "--untrained", action="store_true", help="convert an encoder whose BatchNorms have never seen an image, too"
    )
    parser.add_argument(
        "--inspect",
        type=user_path,
        metavar="FILE",
        help="print what FILE holds and which prefixes are complete, and leave",
    )
    parser.add_argument("--list-sources", action="store_true", help="print the layouts that are recognised, and leave")
    return parser.parse_args()


def print_sources() -> None:
    """The table of layouts."""
    for layout in LAYOUTS:
        print(f"{layout.name:28}{layout.description}{' (refused, with the reason)' if layout.refused else ''}")
        print(f"{'':28}branches: {', '.join(layout.branches)}; source: {layout.source}")


def print_sidecar(sidecar: Sidecar, output: Path) -> None:
    """What was found, proven and written."""
    source, proof, contract = sidecar.source, sidecar.proof, sidecar.contract
    target = target_named(sidecar.target)
    print(f"source      {source['name']}: {source['layout']}, {source['branch']} (of {', '.join(source['branches'])})")
    for note in source.get("notes", ()):
        print(f"note        {note}")
    print(f"method      {source.get('method') or 'unknown: pass --method NAME to name it in tables'}")
    print(f"encoder     {sidecar.arch}, {proof['tensors_placed']} of {proof['tensors_expected']} tensors placed once")
    print("agreement   " + "  ".join(f"{stage} {value:.1e}" for stage, value in proof["relative_difference"].items()))
    print("controls    " + "  ".join(f"{name} {value:.1e}" for name, value in proof["negative_controls"].items()))
    if target.detectron2:
        print("detectron2  " + " ".join(f'{key} "{value}"' for key, value in sidecar.detectron2.items()))
    else:
        print(f"input       {contract.channel_order}, mean {contract.mean}, std {contract.std} of intensities in 0..1")
    print(f"load        {target.usage.format(output=output, arch=sidecar.arch)}")
    record = RECORD if target.files else record_path(output).name
    print(f"written     {output}, {sidecar_path(target.weights_path(output)).name} and {record}")


def main() -> None:
    arguments = parse_arguments()
    alone = "--inspect" if arguments.inspect is not None else "--list-sources" if arguments.list_sources else None
    if alone and arguments.input is not None:
        unread = " ".join(str(path) for path in (arguments.input, arguments.output) if path is not None)
        several = ", one file at a time" if arguments.inspect is not None else ""
        raise ConfigError(f"{alone} converts nothing and would ignore {unread}; leave that out{several}")
    if arguments.list_sources:
        print_sources()
        return
    if arguments.inspect is not None:
        print("\n".join(inspect_file(arguments.inspect)))
        return
    if arguments.input is None or arguments.output is None:
        raise ConfigError("expected INPUT and OUTPUT, or --list-sources; --help shows all options")
    options = {
        "to": arguments.to,
        "layout": arguments.source,
        "branch": arguments.branch,
        "method": arguments.method,
        "overwrite": arguments.overwrite,
        "untrained": arguments.untrained,
        "command": shlex.join(["python", *sys.argv]),
    }
    if arguments.input.is_dir() and not is_one_file(arguments.output, arguments.to):
        convert_all(arguments.input, arguments.output, options)
        return
    print_sidecar(convert(arguments.input, arguments.output, **options), arguments.output)


def convert_all(source_dir: Path, output_dir: Path, options: dict) -> None:
    """A folder: one line a checkpoint, the failures with their reasons last."""
    outcomes = convert_folder(source_dir, output_dir, **options)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in outcomes:
        if outcome.status != "failed":
            print(f"{outcome.status:15}{outcome.source.name} -> {outcome.output}")
    if failed:
        reasons = "".join(f"\n  {outcome.source.name}: {outcome.reason}" for outcome in failed)
        raise CheckpointError(f"{len(failed)} of {len(outcomes)} checkpoints could not be converted:{reasons}")


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
