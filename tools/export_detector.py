"""Write a trained detector as TorchScript or ONNX, compared with the detector before the file gets its name.

    python tools/export_detector.py runs/mine --format torchscript --output exported/mine.pt --images photos/
    python tools/export_detector.py runs/mine --format onnx --output exported/mine.onnx --images photos/

Takes what tools/predict.py takes. Out: the file, which runs without Detectron2 (torch and torchvision, or onnxruntime), and FILE.json
with its input, outputs, class names and the measured agreement. Not to be exported: keypoints as ONNX, and other
meta-architectures than GeneralizedRCNN and RetinaNet.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse
import warnings

warnings.filterwarnings(
    "ignore", "`torch.jit", FutureWarning
)  # Detectron2's, while it is imported, and of TorchScript files
warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)  # Detectron2's

from pretrain.base.command_line import user_path
from pretrain.base.errors import run_tool
from transfer.data.image_list import list_inputs
from transfer.detect.command_line import add_detector_arguments
from transfer.detect.export import FORMATS, NUM_IMAGES, ExportOptions, export_detector, sidecar_of
from transfer.detect.trained import load_trained


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_detector_arguments(parser, example="INPUT.MIN_SIZE_TEST 600 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.3")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=user_path, required=True, metavar="FILE", help=".pt, or .onnx; must not exist")
    parser.add_argument(
        "--images",
        nargs="+",
        required=True,
        metavar="IMAGES",
        help=f"images of the detector's kind, folders or lists (.txt), of which {NUM_IMAGES} are compared",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    options = ExportOptions(arguments.format, arguments.output, list_inputs(arguments.images))
    detector = load_trained(
        arguments.detector,
        config_file=arguments.config_file,
        overrides=(*arguments.opts, *(() if "MODEL.DEVICE" in arguments.opts else ("MODEL.DEVICE", "cpu"))),
        class_names=arguments.classes,
    )
    for sentence in (*detector.notes, *(f"warning: {text}" for text in detector.warnings)):
        print(sentence)
    agreement = export_detector(detector, options)
    print(f"{options.output} {agreement.sentence()}")
    print(f"written: {options.output} and {sidecar_of(options.output)}")


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
