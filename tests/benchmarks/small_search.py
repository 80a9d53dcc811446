"""Which settings learn in minutes: the search behind configs/pretrain/small_*.yaml, through the commands that a user types.

    python tests/benchmarks/small_search.py --shared ../shared/data --work /tmp/search [--only NAME ...] [--seeds 0] [--list]

Each trial pre-trains with tools/pretrain.py, reads the encoder out with tools/linear_eval.py and asks its nearest neighbours;
random weights of the same encoder and seed are judged the same way. What is in the output file already is not run again, so that
the search can be stopped at any time. Out: docs/benchmarks/small_search.json, one entry a trial and seed; one line a trial.

Data: CIFAR-10 (10,000 images of 32 px; 100 labels a class, and all), the same with 1,000 images, Caltech-101 (pool of 8,709 without
labels; 10 labels a class, tested on the others of up to 100 images a class), and the embedded data, made on the spot, 10,000 and
100,000 images.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
OUTPUT = ROOT / "docs" / "benchmarks" / "small_search.json"
NEIGHBOURS = 20
LABELS_A_CLASS = {"cifar10": 100, "cifar10_1k": 100, "caltech101": 10, "embedded": 100, "embedded_100k": 100}
EMBEDDED = {"embedded": 10_000, "embedded_100k": 100_000}  # images of the pool
SMALL = ("encoder.arch=resnet18_half", "encoder.stem=small", "views.image_size=32")  # the default for 32 px
SIZED = {"cifar10": SMALL, "cifar10_1k": SMALL}


@dataclass(frozen=True)
class Trial:
    """images: seen in training, all epochs together, which sets the number of epochs; overrides: over the base file's values."""

    name: str
    data: str
    images: int
    overrides: tuple[str, ...] = ()
    method: str | None = None
    config: str = "small_10k"


def moco(*more: str, queue_size: int = 2048) -> tuple[str, ...]:
    """MoCo v2 as a short run needs it: head with BatchNorm, a queue of a few batches that moves, no blur at 32 px."""
    return (
        "method.head=mlp_bn", "method.batchnorm=shuffled", "method.batchnorm_images=64", f"method.queue_size={queue_size}",
        "method.momentum=0.99", "views.blur_sigma=[0.01,0.01]", *more,
    )  # fmt: skip


INFOMIN = moco("views.recipe=infomin_small", "method.jigsaw_fraction=0.0625", "method.jigsaw_weight=0.1")
SHORT = 30_720  # 240 steps of 128
LONG = 199_680  # 1,560 steps of 128
B128 = ("optimizer.batch_size=128", "optimizer.learning_rate=0.06")
HALF = (*B128, "encoder.arch=resnet18_half")
TRIALS = (
    # The method, each for the same number of images seen.
    Trial("simclr", "cifar10", SHORT, B128),
    Trial("moco_v2_symmetric", "cifar10", SHORT, (*B128, *moco("method.symmetric=true")), method="moco_v2"),
    Trial("moco_v2", "cifar10", SHORT, (*B128, *moco()), method="moco_v2"),
    Trial(
        "infomin",
        "cifar10",
        SHORT,
        (*B128, *INFOMIN),
        method="infomin",
    ),
    # SimCLR: one thing changed at a time.
    Trial("simclr_temperature_0.2", "cifar10", SHORT, (*B128, "method.temperature=0.2")),
    Trial("simclr_temperature_0.5", "cifar10", SHORT, (*B128, "method.temperature=0.5")),
    Trial("simclr_rate_0.12", "cifar10", SHORT, ("optimizer.batch_size=128", "optimizer.learning_rate=0.12")),
    Trial("simclr_rate_0.24", "cifar10", SHORT, ("optimizer.batch_size=128", "optimizer.learning_rate=0.24")),
    Trial("simclr_batch_256_rate_0.12", "cifar10", SHORT, ("optimizer.batch_size=256", "optimizer.learning_rate=0.12")),
    Trial("simclr_jitter_1", "cifar10", SHORT, (*B128, "views.jitter_strength=1.0")),
    Trial("simclr_jitter_0.25", "cifar10", SHORT, (*B128, "views.jitter_strength=0.25")),
    Trial("simclr_crop_0.08", "cifar10", SHORT, (*B128, "views.crop_scale=[0.08,1.0]")),
    Trial("simclr_crop_0.4", "cifar10", SHORT, (*B128, "views.crop_scale=[0.4,1.0]")),
    Trial("simclr_batchnorm_64", "cifar10", SHORT, (*B128, "method.batchnorm=shuffled", "method.batchnorm_images=64")),
    Trial("simclr_head_mlp", "cifar10", SHORT, (*B128, "method.head=mlp")),
    Trial(
        "simclr_adamw",
        "cifar10",
        SHORT,
        (
            "optimizer.batch_size=128",
            "optimizer.name=adamw",
            "optimizer.learning_rate=0.001",
            "optimizer.warmup_start=0.0001",
            "optimizer.weight_decay=0.01",
        ),
    ),
    # Longer runs with what was chosen.
    Trial("simclr_long", "cifar10", 99_840, B128),
    Trial("whole", "cifar10", 599_040),  # what pretrain.py takes by itself for these images, to its end
    # Caltech-101 at 64 px with the stem that a detector takes.
    Trial("caltech_simclr_half", "caltech101", SHORT, HALF),
    Trial("caltech_simclr", "caltech101", SHORT, B128),
    Trial("caltech_moco_v2_half", "caltech101", SHORT, (*B128, *moco(), HALF[-1]), method="moco_v2"),
    Trial("caltech_infomin_half", "caltech101", SHORT, (*B128, *INFOMIN, HALF[-1]), method="infomin"),
    Trial("caltech_simclr_half_long", "caltech101", 104_448, HALF),
    Trial("caltech_simclr_long", "caltech101", 104_448, B128),
    # The embedded data, and a pool of 1,000.
    Trial("embedded_simclr_half", "embedded", SHORT, HALF),
    Trial("embedded_infomin_half", "embedded", SHORT, (*B128, *INFOMIN, HALF[-1]), method="infomin"),
    Trial("thousand_simclr", "cifar10_1k", SHORT, B128, config="small_1k"),
    Trial(
        "thousand_moco_v2",
        "cifar10_1k",
        SHORT,
        (*B128, *moco(queue_size=512)),
        method="moco_v2",
        config="small_1k",
    ),
    Trial("thousand_simclr_long", "cifar10_1k", 99_840, B128, config="small_1k"),
    # 100,000 images, each seen twice, and a tenth of them as often in all. Half of two epochs is slow start, a tenth of twenty.
    Trial("embedded_simclr_half_long", "embedded", LONG, HALF),
    Trial("hundred_thousand_simclr", "embedded_100k", LONG, HALF, config="small_100k"),
    Trial(
        "hundred_thousand_moco_v2",
        "embedded_100k",
        LONG,
        (*HALF, *moco(queue_size=8192)),
        method="moco_v2",
        config="small_100k",
    ),
)


def main() -> None:
    arguments = parse_arguments()
    trials = [trial for trial in TRIALS if not arguments.only or trial.name in arguments.only]
    if arguments.list:
        for trial in trials:
            print(trial.name, trial.data, trial.images, *trial.overrides)
        return
    for trial in trials:
        for seed in arguments.seeds:
            run_trial(trial, seed=seed, shared=arguments.shared, work=arguments.work, output=arguments.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared" / "data", help="with cifar10.zip, caltech101.zip"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for unpacked data and runs")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these trials")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--list", action="store_true", help="name the trials and stop")
    return parser.parse_args()


def run_trial(trial: Trial, *, seed: int, shared: Path, work: Path, output: Path) -> None:
    """One line in `output`, unless it is there."""
    found = load(output)
    if any(entry["trial"]["name"] == trial.name and entry["seed"] == seed for entry in found["trials"]):
        return
    pool, labelled = prepared(trial.data, shared=shared, work=work)
    number = sum(1 for _ in pool.rglob("*.jpg")) or sum(1 for _ in pool.rglob("*.png"))
    sized = tuple(word for word in SIZED.get(trial.data, ()) if word.partition("=")[0] not in keys(trial.overrides))
    overrides = [f"data.root={pool}", f"seed={seed}", *sized, *trial.overrides]
    batch = next((int(word.partition("=")[2]) for word in overrides if word.startswith("optimizer.batch_size=")), 256)
    steps_an_epoch = number // batch
    epochs = max(1, round(trial.images / batch / steps_an_epoch))
    overrides += [f"optimizer.epochs={epochs}", f"optimizer.warmup_epochs={max(1, round(epochs / 10))}"]
    run = work / "runs" / f"{trial.name}_{seed}"
    command = ["tools/pretrain.py", "--config-file", trial.config, "--output-dir", str(run), *overrides]
    if trial.method is not None:
        command += ["--method", trial.method]
    started = time.time()
    failed = call(command)
    minutes = (time.time() - started) / 60
    entry: dict[str, Any] = {
        "trial": asdict(trial),
        "seed": seed,
        "overrides": [word for word in overrides if not word.startswith("data.root=")],
        "steps": epochs * steps_an_epoch,
        "images_seen": epochs * steps_an_epoch * batch,
        "minutes": round(minutes, 1),
    }
    if failed:
        entry["failed"] = failed
    else:
        entry["trained"] = judge(run, trial, labelled, seed=seed, work=work / "runs")
        encoder = encoder_of(trial, overrides)
        entry["random"] = next(
            (
                other["random"]
                for other in load(output)["trials"]
                if other.get("encoder") == encoder and other["seed"] == seed
            ),
            None,
        ) or judge(
            random_weights(trial, overrides, number=number, path=work / "runs" / f"{trial.name}_{seed}_random.pt"),
            trial,
            labelled,
            seed=seed,
            work=work / "runs",
        )
        entry["encoder"] = encoder
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        last = [line for line in lines if "loss" in line][-1]  # the monitor's lines have none
        entry["log"] = {key: round(last[key], 4) for key in ("loss", "accuracy", "key_std") if key in last}
    entry["machine"] = {
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
        "load": os.getloadavg()[1],
    }
    found = load(output)
    found["trials"].append(entry)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(
        json.dumps(
            {key: entry.get(key) for key in ("steps", "minutes", "trained", "random", "failed")} | {"name": trial.name}
        )
    )


def load(output: Path) -> dict[str, Any]:
    return json.loads(output.read_text()) if output.is_file() else {"trials": []}


def keys(words: tuple[str, ...]) -> set[str]:
    return {word.partition("=")[0] for word in words}


def call(command: list[str]) -> str | None:
    """Run a tool; the end of its error output if it failed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return None if done.returncode == 0 else done.stderr.strip()[-600:]


def prepared(data: str, *, shared: Path, work: Path) -> tuple[Path, Path]:
    """(images to pre-train on, folder with train/ and val/ to read out), unpacked once."""
    folder = work / data
    if data == "cifar10_1k":
        return thousand(folder, prepared("cifar10", shared=shared, work=work))
    if data in EMBEDDED:
        if not folder.exists():
            failed = call(
                ["tools/make_demo_data.py", "--output-dir", str(folder), "--num-unlabelled", str(EMBEDDED[data])]
            )
            assert failed is None, failed
        return folder / "unlabelled" / "train", folder / "unlabelled"
    if not folder.exists():
        with zipfile.ZipFile(shared / f"{data}.zip") as archive:
            archive.extractall(folder)
    inner = folder / data
    labelled = folder / "labelled"
    if data == "cifar10":
        pool = inner / "train"
        if not labelled.exists():
            labelled.mkdir()
            (labelled / "train").symlink_to(pool)
            (labelled / "val").symlink_to(inner / "test")
        return pool, labelled
    if not labelled.exists():
        split_caltech(inner, labelled)
    return inner, labelled


def thousand(folder: Path, cifar: tuple[Path, Path]) -> tuple[Path, Path]:
    """The first 100 images of each class, which are what the readout may learn from too."""
    pool, labelled = cifar
    for kind in () if folder.exists() else sorted(path for path in pool.iterdir() if path.is_dir()):
        (folder / "train" / kind.name).mkdir(parents=True)
        for image in sorted(kind.iterdir())[:100]:
            (folder / "train" / kind.name / image.name).symlink_to(image)
    if not (folder / "val").exists():
        (folder / "val").symlink_to(labelled / "val")
    return folder / "train", folder


def split_caltech(pool: Path, labelled: Path) -> None:
    """Ten images of each class to train on, up to 100 others to be tested on; drawn by one fixed seed."""
    import numpy as np

    rng = np.random.default_rng(0)
    for folder in sorted(path for path in pool.iterdir() if path.is_dir()):
        names = sorted(path.name for path in folder.iterdir())
        order = rng.permutation(len(names))
        for split, chosen in (("train", order[:10]), ("val", order[10:110])):
            (labelled / split / folder.name).mkdir(parents=True)
            for index in chosen:
                (labelled / split / folder.name / names[index]).symlink_to(folder / names[index])


def encoder_of(trial: Trial, overrides: list[str]) -> str:
    """What random weights depend on, besides the seed."""
    from pretrain.config import load_run_config

    config = load_run_config(Path(trial.config), overrides, method=trial.method)
    return f"{config.encoder.arch} {config.encoder.stem} {config.views.image_size} px on {trial.data}"


def random_weights(trial: Trial, overrides: list[str], *, number: int, path: Path) -> Path:
    """The checkpoint that the trial's run would have written before its first step."""
    from pretrain.config import load_run_config
    from pretrain.run.checkpoint import write_checkpoint
    from pretrain.run.ranks import Ranks
    from pretrain.state import build_state, contract_of, precision_of

    config = load_run_config(Path(trial.config), overrides, method=trial.method)
    contract, ranks = contract_of(config), Ranks()
    state = build_state(config, contract, num_images=number, precision=precision_of(config, ranks), ranks=ranks)
    write_checkpoint(path, state.state_dict(config, contract, 1))
    return path


def judge(weights: Path, trial: Trial, labelled: Path, *, seed: int, work: Path) -> dict[str, float]:
    """top-1 of the readouts with few labels and with all, and of the nearest neighbours among all labelled images."""
    few = LABELS_A_CLASS[trial.data]
    figures = {}
    for name, words in (("readout", [f"images_per_class={few}"]), ("readout_all", [])):
        if name == "readout_all" and trial.data != "cifar10":
            continue
        folder = work / f"{weights.name}_{name}"
        command = [
            "tools/linear_eval.py",
            "--weights",
            str(weights),
            "--data",
            str(labelled),
            "--output-dir",
            str(folder),
        ]
        failed = call(
            [
                *command,
                "--init-name",
                weights.name,
                f"seed={seed}",
                f"image_size={size_of(trial)}",
                "num_workers=1",
                *words,
            ]
        )
        assert failed is None, failed
        figures[name] = round(json.loads((folder / "record.json").read_text())["figures"]["top1"], 2)
    figures["knn"] = round(nearest_neighbours(weights, trial, labelled), 2)
    return figures


def size_of(trial: Trial) -> int:
    words = [*SIZED.get(trial.data, ()), *trial.overrides]
    return next((int(word.partition("=")[2]) for word in reversed(words) if word.startswith("views.image_size=")), 64)


def nearest_neighbours(weights: Path, trial: Trial, labelled: Path) -> float:
    from pretrain.run.representation import knn_accuracy
    from pretrain.views.recipes import RECIPES
    from transfer.readout.config import LinearConfig
    from transfer.readout.features import encode_table, load_frozen_encoder, load_splits

    config = LinearConfig(image_size=size_of(trial), num_workers=1)
    encoder = load_frozen_encoder(str(weights), config, branch=None)
    train, val = load_splits(labelled)
    bank, queries = (
        encode_table(encoder, images, RECIPES["center"], config, num_views=1, title="features")[0]
        for images in (train, val)
    )
    return knn_accuracy(
        bank=bank, bank_labels=train.labels, queries=queries, query_labels=val.labels, neighbours=NEIGHBOURS
    )


if __name__ == "__main__":
    main()
