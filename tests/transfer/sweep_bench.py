"""A project of fake tools for sweeps: scripts that write the records of the real ones in no time."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.transfer.fake_tools import write_tools
from transfer.compare.sweep import run_sweep
from transfer.compare.sweep_config import Sweep, load_sweep

FAKE_TOOL = """
planted = json.loads((root / "planted.json").read_text())
def figures(name):
    setting, _, seed = name.rpartition("_seed")
    return planted[setting][int(seed)]
def estimate(nats, saturated):
    return {"bound": "info_nce", "nats": nats, "low": nats - 0.1, "high": nats + 0.1, "ceiling": 5.5,
            "saturated": saturated, "num_pairs": 100, "num_negatives": 244}
if tool == "pretrain":
    recipe = [word for word in words if word.startswith("views.recipe=")][0].partition("=")[2]
    assert pathlib.Path(recipe).is_file(), recipe
    pretraining()
elif tool == "measure_views":
    nats, saturated, _ = figures(pathlib.Path(after("--json")).parts[-3])
    record("measurement", {"info_nce": nats}, file=after("--json"), information=estimate(nats, saturated))
elif tool == "linear_eval":
    name = pathlib.Path(after("--output-dir")).parts[-2]
    readout(figures(name)[2])
elif tool == "convert_weights":
    write(words[1], {})
elif tool == "train_net":
    name = pathlib.Path(after("OUTPUT_DIR")).parts[-2]
    detection({"bbox": {"AP": figures(name)[2]}})
elif tool == "evaluate_views":
    nats, saturated, top1 = figures(pathlib.Path(after("--output-dir")).parts[-2])
    information = estimate(nats, saturated)
    record("view-evaluation", {"top1": top1, "info_nce": nats}, information=information, probe={"top1": top1})
"""
TOOLS = ("pretrain", "measure_views", "linear_eval", "convert_weights", "train_net", "evaluate_views")
PRETRAIN = """
encoder: {arch: resnet18_half}
base: methods/moco_v2.yaml
method: {queue_size: 16, batchnorm_images: 4}
views: {recipe: infomin, image_size: 32, blur_kernel: 5}
optimizer: {batch_size: 8, epochs: 1}
data: {root: nowhere, num_workers: 0}
runtime: {precision: fp32}
"""
# recipe name -> seed -> (nats, saturated, accuracy): a planted reverse U with its top at 0.2.
REVERSE_U = {
    "crop_0.05": [(1.0, False, 40.0), (1.1, False, 40.4)],
    "crop_0.2": [(2.0, False, 50.0), (2.2, False, 50.6)],
    "crop_0.9": [(4.4, True, 44.0), (4.5, False, 44.2)],
}


def write_images(root: Path, count: int, *, classes: tuple[str, ...] = ("a", "b"), side: int = 40) -> None:
    """`count` images in each class folder."""
    contents = iter(noise_pngs(count * len(classes), side))
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(next(contents))


@functools.cache
def noise_pngs(count: int, side: int) -> tuple[bytes, ...]:
    """Different images of noise. Compressing them takes longer than most tests."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG", compress_level=0)
        found.append(buffer.getvalue())
    return tuple(found)


class SweepBench:
    """A project of fake tools, a small data set, and a sweep on it."""

    def __init__(self, root: Path) -> None:
        self.root, self.output, self.data = root, root / "runs" / "out", root / "data"
        write_tools(root, TOOLS, FAKE_TOOL)
        (root / "pretrain.yaml").write_text(PRETRAIN)
        (root / "linear.yaml").write_text("epochs: 1\n")
        (root / "detector.yaml").write_text("SOLVER: {}\n")
        self.plant(REVERSE_U)
        write_images(self.data / "train", 10)
        write_images(self.data / "val", 6)
        self.messages: list[str] = []

    def plant(self, figures: dict[str, list[tuple[float, bool, float]]]) -> None:
        """What the fake tools find."""
        (self.root / "planted.json").write_text(json.dumps(figures))

    def config(
        self, *, overrides=(), pretrain_config="pretrain.yaml", readout_data=None, linear_config=None, **over
    ) -> Sweep:
        """The sweep, with other values: as the flags of tools/sweep_views.py name them. overrides: key=value."""
        values = {
            "family": "crop",
            "settings": ["0.9", "0.05", "0.2"],
            "seeds": [0, 1],
            "data": self.data,
            "pretrain": {"config_file": pretrain_config and self.root / pretrain_config},
            "readout": {"data": readout_data, "config_file": linear_config},
            "measure_batch": 12,
            **over,
        }
        return load_sweep(None, flags=values, overrides=overrides)

    def run(self, *, command="", **over) -> tuple[int, list[str]]:
        """Run the sweep -> exit code, names of the tools that were called."""
        (self.root / "calls.txt").write_text("")
        self.messages = []
        code = run_sweep(
            self.config(**over),
            self.output,
            say=self.messages.append,
            out=io.BytesIO(),
            root=self.root,
            command=command,
        )
        return code, [line.split()[0] for line in self.calls()]

    def calls(self) -> list[str]:
        """The fake tools' command lines of the last run."""
        return (self.root / "calls.txt").read_text().splitlines()

    def result(self) -> dict:
        """sweep.json."""
        return json.loads((self.output / "sweep.json").read_text())


def write_labelled_image(folder: Path) -> str:
    """One image with one box in COCO's format -> the SPEC that names it."""
    folder.mkdir()
    Image.new("RGB", (40, 30), (90, 120, 60)).save(folder / "0.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 10], "area": 200, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "0.png", "width": 40, "height": 30}],
        "annotations": [box],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return f"coco:{folder}/boxes.json:{folder}"
