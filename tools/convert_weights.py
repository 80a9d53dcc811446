"""Convert a checkpoint to Detectron2 weights, with proof.

    python tools/convert_weights.py runs/pretrain/checkpoints/step_00015600.pt weights/infomin.pth
    python tools/convert_weights.py --list-sources
    python tools/convert_weights.py --inspect unknown.pth

Recognises the checkpoint by its content. Out: OUTPUT (.pth) and its sidecar (.json), both or neither; exit code 2 when a
tensor is missing, unexplained or computes something else in Detectron2.
"""

import sys

sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
from pathlib import Path

from pretrain.errors import ConfigError, run_tool
from transfer.inspection import inspect_file
from transfer.layouts import LAYOUTS
from transfer.sidecar import Sidecar, sidecar_path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, nargs="?", metavar="INPUT", help="checkpoint")
    parser.add_argument("output", type=Path, nargs="?", metavar="OUTPUT", help="weights for Detectron2, ends in .pth")
    parser.add_argument("--source", default="auto", metavar="NAME", help="layout of INPUT (default auto: by content)")
    parser.add_argument(
        "--branch",
        metavar="NAME",
        help="which copy of the encoder, for example query or key (default: the first in the list)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument(
        "--inspect", type=Path, metavar="FILE", help="print what FILE holds and which prefixes are complete, and leave"
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
    source, proof = sidecar.source, sidecar.proof
    print(f"source      {source['name']}: {source['layout']}, {source['branch']} (of {', '.join(source['branches'])})")
    for note in source.get("notes", ()):
        print(f"note        {note}")
    print(f"encoder     {sidecar.arch}, {proof['tensors_placed']} of {proof['tensors_expected']} tensors placed once")
    print("agreement   " + "  ".join(f"{stage} {value:.1e}" for stage, value in proof["relative_difference"].items()))
    print("controls    " + "  ".join(f"{name} {value:.1e}" for name, value in proof["negative_controls"].items()))
    print("detectron2  " + " ".join(f'{key} "{value}"' for key, value in sidecar.detectron2.items()))
    print(f"written     {output} and {sidecar_path(output).name}")


def main() -> None:
    arguments = parse_arguments()
    if arguments.list_sources:
        print_sources()
        return
    if arguments.inspect is not None:
        print("\n".join(inspect_file(arguments.inspect)))
        return
    if arguments.input is None or arguments.output is None:
        raise ConfigError("expected INPUT and OUTPUT, or --list-sources; --help shows all options")
    from transfer.convert import convert  # Detectron2 takes seconds to import; the list does not need it

    print_sidecar(
        convert(
            arguments.input,
            arguments.output,
            layout=arguments.source,
            branch=arguments.branch,
            overwrite=arguments.overwrite,
        ),
        arguments.output,
    )


if __name__ == "__main__":
    run_tool(main)
