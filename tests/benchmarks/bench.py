"""All benchmarks in one run: input, step, the demo's views, conversion, evaluation, readout, each against its baseline in turns.

    python tests/benchmarks/bench.py --output runs/bench.json            # `make bench`; some 8 minutes on 2 idle cores
    python tests/benchmarks/bench.py --write-docs                        # also docs/bench.json and its table in docs/performance.md
    python tests/benchmarks/bench.py --quick --output out.json           # seconds: does everything still run? The figures say nothing

Out: JSON with the machine, and a table. A figure is the median of the turns with the smallest and largest; a ratio is that of one
turn, so that what else the machine does is shared by both. Only ratios can be compared between machines and hours.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

DOCS_JSON, DOCS_PAGE = ROOT / "docs" / "bench.json", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
PHOTOS = ROOT.parent / "shared" / "data" / "coco" / "train2017"
SECTIONS = ("input", "step", "demo", "conversion", "evaluation", "readout")


def compared(
    what: str, *, unit: str, baseline: str, reference: Sequence[float], ours: Sequence[float]
) -> dict[str, Any]:
    """A row: medians of the turns' figures, and the ratio of each turn; more is better in a rate ("images/s"), less in a time."""
    rate = unit.endswith("/s")
    ratios = [(b / a if rate else a / b) for a, b in zip(reference, ours, strict=True)]
    return {
        "what": what,
        "baseline": baseline,
        "unit": unit,
        "reference": spread(reference),
        "ours": spread(ours),
        "times_better": spread(ratios),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Three significant digits, as many as any of this is worth."""
    kept = {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}
    return {name: float(f"{value:.3g}") for name, value in kept.items()}


def in_turns(ways: Mapping[str, Callable[[], object]], *, turns: int) -> dict[str, list[float]]:
    """Milliseconds of each way in each turn, after one turn that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            if turn:
                taken[name].append(1000 * (time.perf_counter() - started))
    return taken


def bench_input(folder: Path, *, turns: int, quick: bool) -> list[dict[str, Any]]:
    """JPEG to views, one thread, of both recipes."""
    from tests.benchmarks import input_speed

    photos = input_speed.read_photos(PHOTOS, 20) if PHOTOS.is_dir() else made_photos(20)
    found = input_speed.measure(photos[: 1 if quick else None], rounds=turns)
    milliseconds = found["ms_an_image"]
    return [
        {
            "what": f"{name}: a JPEG of {found['bytes_an_image'] // 1000} kB to its views",
            "baseline": "the reference's transforms",
            "unit": "ms",
            "reference": milliseconds[f"{name}, reference"],
            "ours": milliseconds[f"{name}, ours"],
            "times_better": found[name]["times_reference"],
        }
        for name in ("moco_v2", "infomin")
    ]


def made_photos(count: int) -> list[bytes]:
    """Photograph-like JPEGs, where the shared photographs are not at hand."""
    from pretrain.gpu_check.sizes import Sizes, write_jpegs

    with tempfile.TemporaryDirectory() as name:
        write_jpegs(Path(name), Sizes(num_jpegs=count))
        return [path.read_bytes() for path in sorted(Path(name).iterdir())]


def bench_step(folder: Path, *, turns: int, quick: bool) -> list[dict[str, Any]]:
    """A training step of MoCo v2 on the CPU, one thread."""
    from tests.benchmarks import step_speed

    cases = {"resnet18 32 px": ("resnet18", 32, 4)} if quick else dict(step_speed.CASES)
    rows = []
    for name, (arch, size, batch) in cases.items():
        taken = step_speed.measure(step_speed.arms(arch, size, batch), rounds=turns)
        reference, ours = (taken[arm] for arm in ("reference, float32 NCHW", "ours"))
        rates = [[batch / seconds for seconds in times] for times in (reference, ours)]
        what = f"training step of MoCo v2, {name}, batch {batch}"
        rows.append(compared(what, unit="images/s", baseline="the reference's step", reference=rates[0], ours=rates[1]))
    return rows


def bench_demo(folder: Path, *, turns: int, quick: bool) -> list[dict[str, Any]]:
    """What a step of the demo's pre-training costs without and with its views made on the same core."""
    from tests.benchmarks.views_share import demo_step

    make_batch, step = demo_step(folder, batch_size=8 if quick else None)
    batch = make_batch()
    taken = in_turns({"views": make_batch, "step": lambda: step(batch)}, turns=turns)
    whole = [a + b for a, b in zip(taken["views"], taken["step"], strict=True)]
    what = "the demo's step with its views made on the same core"
    return [compared(what, unit="ms", baseline="the step alone", reference=taken["step"], ours=whole)]


def bench_conversion(folder: Path, *, turns: int, quick: bool) -> list[dict[str, Any]]:
    """A checkpoint like PyContrast's to Detectron2's weights, each time in a fresh process."""
    from tests.benchmarks import convert_speed

    found = convert_speed.measure(
        folder, ways=("reference", "ours", "ours+proof"), turns=turns, arch="resnet18" if quick else "resnet50"
    )
    times = {way: [1000 * result["seconds"] for result in results] for way, results in found.items()}
    return [
        compared(what, unit="ms", baseline=baseline, reference=times["reference"], ours=times[way])
        for what, baseline, way in (
            ("conversion, written file", "the reference's converter", "ours"),
            ("conversion with its proof", "the reference's converter, which has none", "ours+proof"),
        )
    ]


def bench_evaluation(folder: Path, *, turns: int, quick: bool) -> list[dict[str, Any]]:
    """AP of given detections: of boxes by COCO's and VOC's rules, of masks by COCO's."""
    from tests.benchmarks import evaluation_speed

    size = {"num_images": 30, "num_detections": 5} if quick else {"num_images": 250, "num_detections": 100}
    coco = in_turns(evaluation_speed.coco_ways(folder, **size), turns=turns)
    masks = in_turns(evaluation_speed.mask_ways(folder, **size), turns=turns)
    voc = in_turns(evaluation_speed.voc_ways(folder, **size), turns=turns)
    return [
        compared(what, unit="ms", baseline=baseline, **taken)
        for what, baseline, taken in (
            ("COCO box AP", "pycocotools called directly", coco),
            ("COCO mask AP of run lengths", "pycocotools called directly", masks),
            ("VOC AP", "Detectron2's evaluator", voc),
        )
    ]


def bench_readout(folder: Path, *, turns: int, quick: bool) -> list[dict[str, Any]]:
    """A readout of 20 epochs on cached features, against a new view of each image in each epoch."""
    from tests.benchmarks.views_share import demo_images
    from transfer.readout import features, linear
    from transfer.readout.config import LinearConfig

    count, epochs = (16, 2) if quick else (128, 20)
    train, val = features.load_splits(demo_images(folder) / "unlabelled")
    train, val = (features.few_per_class(images, count // 8, seed=0) for images in (train, val))

    def readout(cached_views: int) -> Callable[[], object]:
        config = LinearConfig(
            epochs=epochs, image_size=64, learning_rate=0.03, cached_views=cached_views, device="cpu", num_workers=0
        )
        encoder = features.load_frozen_encoder("random:resnet18", config, branch=None)
        return lambda: linear.measure(encoder, train, val, config, announce=lambda text: None)

    taken = in_turns({"usual": readout(0), "cached": readout(2)}, turns=min(turns, 3))
    what = f"readout of ResNet-18 at 64 px, {epochs} epochs of {len(train)} images, two cached views"
    baseline = "a new view in each epoch"
    return [compared(what, unit="ms", baseline=baseline, reference=taken["usual"], ours=taken["cached"])]


def machine() -> dict[str, Any]:
    """What the figures were measured on, without the machine's name."""
    from pretrain.base.environment import environment

    known = environment()
    return {key: known[key] for key in ("cpu", "torch", "torchvision", "python", "git")}


def bench(sections: Sequence[str], *, turns: int, quick: bool) -> dict[str, Any]:
    """Every section, in one run."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    started = time.monotonic()
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for section in sections:
            print(f"{section} ...", flush=True)
            folder = Path(name) / section
            folder.mkdir()
            work = globals()[f"bench_{section}"]
            rows[section] = work(folder, turns=turns, quick=quick)
    return {
        "date": datetime.date.today().isoformat(),
        "quick": quick,
        "turns": turns,
        "seconds": round(time.monotonic() - started),
        "machine": machine(),
        "rows": rows,
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The table for docs/performance.md."""
    cpu, git = found["machine"]["cpu"], found["machine"]["git"] or {"commit": "unknown", "dirty": False}
    lines = [
        f"`make bench`, {found['date']}, {cpu['name']}, {cpu['count']} cores (one thread each way), torch "
        f"{found['machine']['torch']}, commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}; medians "
        f"[smallest-largest] of {found['turns']} interleaved turns, {found['seconds']} s in all.",
        "",
        "| what | ours | baseline | times better |",
        "|---|---|---|---|",
    ]
    for rows in found["rows"].values():
        lines += [
            f"| {row['what']} | {_cell(row['ours'])} {row['unit']} | {row['baseline']}: {_cell(row['reference'])} {row['unit']} "
            f"| {_cell(row['times_better'])} |"
            for row in rows
        ]
    return "\n".join(lines)


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['median']:g} [{value['smallest']:g}-{value['largest']:g}]"


def with_block(page: str, block: str) -> str:
    """`page` with `block` between the markers, which are put at its end where it has none."""
    if BEGIN not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "bench.json")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write-docs", action="store_true", help="also put the figures into docs/")
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    if arguments.write_docs and (arguments.quick or tuple(arguments.sections) != SECTIONS):
        parser.error("--write-docs expects a whole run: leave --quick and --sections out")
    found = bench(arguments.sections, turns=1 if arguments.quick else arguments.turns, quick=arguments.quick)
    text = json.dumps(found, indent=2) + "\n"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text)
    print(markdown(found))
    print(f"wrote {arguments.output}")
    if arguments.write_docs:
        DOCS_JSON.write_text(text)
        DOCS_PAGE.write_text(with_block(DOCS_PAGE.read_text(), markdown(found)))


if __name__ == "__main__":
    main()
