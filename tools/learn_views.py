"""Learn a pair of views: an invertible generator that plays against an estimator of the information between its channels.

python tools/learn_views.py --data IMAGES --output-dir runs/learned --config-file configs/views/learned_views_small.yaml \
    --labels-per-class 100 --seeds 0 1 2
python tools/learn_views.py --data IMAGES --output-dir runs/learned --mode unsupervised generator.space=ydbdr
python tools/pretrain.py --config-file configs/pretrain/small_r18_64px.yaml --output-dir runs/pre data.root=IMAGES \
    views.recipe=runs/learned/recipe.yaml method.jigsaw=false

Labels come from the class folders of --labelled, or of --data itself. SIGTERM saves; the same command again continues.
"""

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # tools/ itself: tools/pretrain.py would hide the package `pretrain`

import argparse

from pretrain.base.command_line import parse_seeds, parse_with_overrides, user_path
from pretrain.base.errors import run_tool


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=user_path, required=True, help="folder of images, or of class folders")
    parser.add_argument("--output-dir", type=user_path, required=True, help="generator, recipe, pictures, record.json")
    parser.add_argument(
        "--config-file", type=user_path, help="a file of configs/views/ or your own (default: paper's scale)"
    )
    parser.add_argument("--mode", choices=("unsupervised", "semi-supervised", "supervised"), help="of the game")
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument("--labelled", type=user_path, metavar="FOLDER", help="class folders whose labels may be seen")
    labels.add_argument("--labels-per-class", type=int, metavar="N", help="so many of each class folder of --data")
    parser.add_argument("--seeds", nargs="+", default=["0"], help="one game each (default: 0), for example 0 1 2")
    parser.add_argument(
        "--resume", choices=("auto", "never"), default="auto", help="continue what is in --output-dir (default: auto)"
    )
    return parse_with_overrides(parser, example="generator.space=lab", lists=("seeds",))


def main() -> None:
    arguments = parse_arguments()
    from pretrain.base.record import this_command
    from pretrain.good_views.view_learning.config import load_game_config
    from pretrain.good_views.view_learning.run import GameRunConfig, learn_views

    game = load_game_config(
        arguments.config_file, arguments.overrides, mode=arguments.mode, labels_per_class=arguments.labels_per_class
    )
    config = GameRunConfig(arguments.data, arguments.labelled, parse_seeds(arguments.seeds), game)
    result = learn_views(
        config,
        arguments.output_dir,
        resume=arguments.resume == "auto",
        command=this_command(),
        announce=print,
    ).details
    for seed in result["seeds"]:
        figures = ", ".join(
            f"{name} {seed['final'][name]:.3f}"
            for name in ("information", "cross_entropy_1", "cross_entropy_2")
            if name in seed["final"]
        )
        print(
            f"seed {seed['seed']}: {seed['kept_step']} steps; {figures}" + (" (diverged)" if seed["diverged"] else "")
        )
    print(f"wrote {arguments.output_dir}: generator.safetensors and recipe.yaml of seed {result['kept_seed']}")


def command() -> None:
    """The console script."""
    run_tool(main)


if __name__ == "__main__":
    command()
