"""Show a trained detector new images: drawn boxes, masks and keypoints, and COCO JSON.

    python tools/predict.py runs/mine photos/ --output-dir predictions/mine
    python tools/predict.py runs/mine/model_best.pth a.jpg b.png list.txt --output-dir predictions/few --threshold 0.3
    python tools/predict.py model_final_280758.pkl photos/ --config-file faster_rcnn_R_50_FPN_3x.yaml --output-dir predictions/zoo

Takes the output folder of tools/train_net.py, one of its checkpoints, or the weights of any detector that Detectron2 builds, with
--config-file. Out: predictions.json (a COCO data set), coco_results.json (for COCO.loadRes), images/, sheet.jpg and record.json in
--output-dir, which is new or empty. A file that cannot be read is named at the end, with exit code 2; the others are done.
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
from pretrain.base.record import this_command
from transfer.detect.command_line import add_detector_arguments
from transfer.detect.predict import PredictOptions, predict


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_detector_arguments(parser, example="MODEL.DEVICE cuda INPUT.MIN_SIZE_TEST 600")
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="images, folders of them, lists of files (.txt)")
    parser.add_argument("--output-dir", type=user_path, required=True, metavar="OUT", help="new or empty folder")
    parser.add_argument(
        "--threshold", type=float, default=0.5, metavar="SCORE", help="least score of what is kept (default: 0.5)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="run up to N images of one size together (default: 1, the same bits as --eval-only)",
    )
    parser.add_argument("--no-drawings", action="store_true", help="write no pictures")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    outcome = predict(
        PredictOptions(
            detector=arguments.detector,
            images=tuple(arguments.images),
            output_dir=arguments.output_dir,
            threshold=arguments.threshold,
            config_file=arguments.config_file,
            overrides=tuple(arguments.opts),
            class_names=arguments.classes,
            batch_size=arguments.batch_size,
            draw=not arguments.no_drawings,
            command=this_command(),
        ),
        print,
    )
    print(outcome.summary())
    outcome.require_all()


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
