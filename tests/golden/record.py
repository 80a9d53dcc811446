"""Record what the project computes, so that a rearrangement of its code cannot change a result unseen.

    python tests/golden/record.py --output tests/golden                       # all sections, about two minutes
    python tests/golden/record.py --output tests/golden --sections views losses
    python tests/golden/record.py --output OUT --root CHECKOUT                # the code of another checkout

In: nothing; images, checkpoints and run folders are made here from fixed seeds. Out: OUT/SECTION.json, one a section:
{"environment": versions and processor at recording, "values": ...}. tests/golden/test_golden.py compares with the committed files.

Values change only with a reason in the commit that records them again. Everything goes through the commands in tools/, the
configuration files and the stream of view batches; the rest that is needed of the project stands in MODULES.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html.parser import HTMLParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
# What is needed of the project -> the module that holds it.
MODULES = {
    "run configuration": "pretrain.config",
    "stream": "pretrain.data.stream",
    "ranks": "pretrain.run.ranks",
    "recipes": "pretrain.views.recipes",
    "recipe files": "pretrain.views.recipe_file",
    "families": "pretrain.views.families",
    "encoder": "pretrain.model.encoder",
    "heads": "pretrain.model.heads",
    "methods": "pretrain.model.contrast",
    "contract": "pretrain.base.contract",
    "detector configuration": "transfer.detect.config",
    "checkpoints of every layout": "tests.transfer.conversion.checkpoints",
    "tiny encoders": "tests.transfer.conversion.tiny_encoders",
    "run folders": "tests.transfer.conftest",
}
SEED = 7
LIBRARIES = (
    "torch", "torchvision", "numpy", "opencv-python", "opencv-python-headless", "pillow", "sal-detectron2", "detectron2",
)  # fmt: skip
DIGITS = 16  # of a sha256 that stands in a file: 64 bits


def module(what: str) -> Any:
    """The module of MODULES that holds `what`, from the checkout ROOT and from nowhere else."""
    found = importlib.import_module(MODULES[what])
    if not Path(str(found.__file__)).is_relative_to(ROOT):
        raise ImportError(f"{MODULES[what]} came from {found.__file__}, expected it from {ROOT}")
    return found


def environment() -> dict[str, Any]:
    """Versions and processor: where these differ, float values may differ in their last bits."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    flags = [name for name, value in capabilities.items() if value is True and name.startswith(("avx", "amx", "fma"))]
    return {
        **versions,
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": " ".join(sorted(flags)),
        "cpu_name": str(capabilities.get("cpu_name", "")),
    }


def sha(content: bytes | str) -> str:
    """The first 16 hexadecimal digits of a sha256."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:DIGITS]


def run_tool(name: str, *arguments: str) -> str:
    """Run tools/NAME.py in this process with `arguments`; returns what it printed. RuntimeError unless it ends with 0."""
    before, path, printed = sys.argv, list(sys.path), io.StringIO()
    sys.argv = [f"tools/{name}.py", *arguments]
    sys.path.insert(0, str(ROOT / "tools"))  # as `python tools/NAME.py` does; the tool drops it
    code: Any = 0
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            runpy.run_path(str(ROOT / "tools" / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv, sys.path[:] = before, path
    if code:
        raise RuntimeError(f"tools/{name}.py {' '.join(arguments)}: exit code {code}\n{printed.getvalue()}")
    return printed.getvalue()


# --- images -----------------------------------------------------------------------------------------------------------

# Height and width: square, wide, tall, odd, smaller and larger than the views. The shortest side leaves room for the
# two patches of 32 px of the family "distance".
SIZES = (
    (64, 64), (48, 72), (72, 48), (96, 64), (64, 97), (50, 131), (131, 50), (128, 128),
    (57, 57), (90, 61), (224, 224), (240, 180), (180, 241), (300, 199), (256, 256), (61, 200),
)  # fmt: skip
SMALL_SIZES = ((48, 40), (40, 48), (45, 45)) * 6  # 18: two batches of 8, and two images left over


def image(seed: int, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3): coloured cells with hard edges, a slope and some noise."""
    rng = np.random.default_rng((SEED, seed))
    cells = rng.integers(20, 236, (4, 5, 3)).repeat(-(-height // 4), 0).repeat(-(-width // 5), 1)[:height, :width]
    slope = np.linspace(-30, 30, width)[None, :, None]
    return np.clip(cells + slope + rng.integers(-15, 16, (height, width, 3)), 0, 255).astype(np.uint8)


def write_images(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """One PNG of `image` a size."""
    folder.mkdir(parents=True)
    for number, (height, width) in enumerate(sizes):
        Image.fromarray(image(number, height, width)).save(folder / f"{number:02d}_{height}x{width}.png")
    return folder


# --- views ------------------------------------------------------------------------------------------------------------


def view_cases() -> dict[str, dict[str, Any]]:
    """Name of a case -> the `views` of a run's configuration, "jigsaw" (patches or none) and "epoch"."""
    recipes, families = module("recipes").RECIPES, module("families").FAMILIES
    plain = module("recipe files").recipe_to_plain
    small = {"image_size": 64, "patch_size": 20}
    cases: dict[str, dict[str, Any]] = {}
    for name in recipes:
        for jigsaw in (True, False):
            cases[f"{name}, {'with' if jigsaw else 'no'} patches"] = {"recipe": name, **small, "jigsaw": jigsaw}
    cases["infomin at 224 px"] = {"recipe": "infomin", "jigsaw": True}
    cases["infomin in epoch 1"] = {"recipe": "infomin", **small, "jigsaw": True, "epoch": 1}
    overrides: dict[str, tuple[str, Any]] = {
        "crop_scale": ("infomin", [0.05, 0.4]),
        "blur_kernel": ("infomin", 7),
        "blur_sigma": ("infomin", [0.3, 0.7]),
        "blur_sigma of moco_v2": ("moco_v2", [0.3, 0.7]),
        "jitter_strength": ("infomin", 0.5),
        "jitter_strength of moco_v1": ("moco_v1", 1.7),
    }
    for case, (recipe, value) in overrides.items():
        cases[f"override {case}"] = {"recipe": recipe, case.split()[0]: value, **small, "jigsaw": False}
    # Family -> base recipe, settings, image size.
    settings: dict[str, tuple[str, tuple[Any, ...], int]] = {
        "crop": ("infomin", (0.02, 0.7), 64),
        "jitter": ("infomin", (0.125, 2.0), 64),
        "blur": ("moco_v2", (0.25, 4.0), 64),
        "frequency": ("linear", (0.7, 2.0), 64),
        "distance": ("linear", (0.0, 16.0), 32),
        "colour": ("linear", families["colour"].settings, 64),
        "stacking": ("infomin", ("crop", "+blur", "+randaugment"), 64),
    }
    for family, (base, values, size) in settings.items():
        for setting in values:
            recipe = families[family].recipe(recipes[base], setting, image_size=size)
            views = {"recipe": plain(recipe), "image_size": size, "patch_size": 20}
            cases[f"family {family} at {setting}"] = {**views, "jigsaw": False}
    return cases


def record_views(folder: Path, only: Callable[[str], bool] = bool) -> dict[str, Any]:
    """Case -> one entry an image: sha of its views, and of its patches with their permutation where there are any."""
    images = write_images(folder / "images", SIZES)
    return {name: views_of(case, images, folder) for name, case in view_cases().items() if only(name)}


def views_of(case: Mapping[str, Any], images: Path, folder: Path, *, seed: int = SEED) -> dict[str, str]:
    """Image -> hashes, through the stream that training reads."""
    views = {name: value for name, value in case.items() if name not in ("jigsaw", "epoch")}
    values = {
        "base": method_file("infomin"),
        "seed": seed,
        "data": {"root": str(images), "num_workers": 0},
        "method": {"jigsaw": case["jigsaw"], "queue_size": len(SIZES)},
        "views": views,
        "optimizer": {"batch_size": len(SIZES), "epochs": 2},
        "runtime": {"device": "cpu"},
    }
    (folder / "views.yaml").write_text(yaml.safe_dump(values))
    config = module("run configuration").load_run_config(folder / "views.yaml")
    stream = module("stream").open_stream(config, ranks=module("ranks").Ranks(), announce=lambda text: None)
    (batch,) = stream.batches(from_step=case.get("epoch", 0), num_steps=1)  # an epoch is one batch
    found = {}
    for row in np.argsort(batch.index.numpy()):
        height, width = SIZES[int(batch.index[row])]
        entry = sha(batch.images[row].numpy().tobytes())
        if case["jigsaw"]:
            entry += " " + sha(batch.patches[row].numpy().tobytes() + batch.permutation[row].numpy().tobytes())
        found[f"{int(batch.index[row]):02d}_{height}x{width}"] = entry
    return found


# --- losses -----------------------------------------------------------------------------------------------------------

NUM_STEPS = 20
TINY_RUN = {
    "seed": SEED,
    "encoder": {"arch": "resnet18"},
    "method": {
        "queue_size": 20,
        "momentum": 0.9,
        "batchnorm_images": 4,
    },  # K is no multiple of the batch: the ring wraps
    "views": {"image_size": 32, "patch_size": 16, "blur_kernel": 5},
    "optimizer": {"batch_size": 8, "epochs": NUM_STEPS // 2, "learning_rate": 0.03, "warmup_epochs": 2},
    "runtime": {"device": "cpu", "precision": "fp32", "log_every_steps": 1},
}
METHODS = ("infomin", "moco_v2")


def record_losses(folder: Path, *overrides: str) -> dict[str, list[str]]:
    """Method -> the loss of each step as a hexadecimal float32, from log.jsonl of tools/pretrain.py. overrides: key=value."""
    images = write_images(folder / "small_images", SMALL_SIZES)
    return {method: losses_of(method, images, folder / method, *overrides) for method in METHODS}


def losses_of(method: str, images: Path, run: Path, *overrides: str) -> list[str]:
    """Losses of one run of NUM_STEPS steps on one thread."""
    run_file = run.with_suffix(".yaml")
    values = {"base": method_file(method), **TINY_RUN, "data": {"root": str(images), "num_workers": 0}}
    run_file.write_text(yaml.safe_dump(values))
    with one_thread():
        run_tool("pretrain", "--config-file", str(run_file), "--output-dir", str(run), *overrides)
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == list(range(1, NUM_STEPS + 1))
    return [float(entry["loss"]).hex() for entry in entries]


def method_file(name: str) -> str:
    """The base file of a method, by its full path: the runs here lie outside the checkout."""
    return str(ROOT / "configs" / "pretrain" / "methods" / f"{name}.yaml")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order: torch on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- conversion -------------------------------------------------------------------------------------------------------


def record_conversion(folder: Path, only: Callable[[str], bool] = bool) -> dict[str, str]:
    """File and branch -> number of converted tensors, their sha, and the sha of the settings in the sidecar.

    A file of every layout that holds a tiny ResNet-50, converted with proof for Detectron2; and a ResNet-18 of our own for each
    target whose file holds named tensors.
    """
    made, tiny = module("checkpoints of every layout"), module("tiny encoders")
    found: dict[str, str] = {}
    with one_thread(), entries(module("encoder").ARCHITECTURES, tiny.TINY):
        for layout, makers in made.MAKERS.items():
            for maker in makers:
                name = f"{layout}, {maker.__name__}"
                if only(name):
                    states = [tiny.tiny_state("tiny50", seed) for seed in (0, 1)]
                    source = made.save(maker(*states), new_folder(folder, name), layout=layout)
                    found |= converted(name, source)
        for target, output in (
            ("detectron2", "out.pth"),
            ("torchvision", "out.pth"),
            ("timm", "out.safetensors"),
            ("huggingface", "out"),
        ):
            name = f"our resnet18 to {target}"
            if only(name):
                states = [made.encoder_state("resnet18", seed) for seed in (0, 1)]
                source = made.save(made.ours(*states), new_folder(folder, name), layout="infomin-transfer")
                found |= converted(name, source, to=target, output=output)
    return found


def new_folder(folder: Path, name: str) -> Path:
    path = folder / re.sub(r"\W+", "_", name)
    path.mkdir()
    return path


def converted(name: str, source: Path, *, to: str = "detectron2", output: str = "out.pth") -> dict[str, str]:
    """Every branch of `source`, the default one first."""
    found: dict[str, str] = {}
    branches = [None]
    while branches:
        branch = branches.pop(0)
        path = source.parent / output
        chosen = () if branch is None else ("--branch", branch)
        run_tool("convert_weights", str(source), str(path), "--to", to, "--overwrite", *chosen)
        weights = next(iter(path.glob("*.safetensors"))) if path.is_dir() else path
        sidecar = json.loads(weights.with_suffix(".json").read_text())
        if branch is None:
            branches = sidecar["source"]["branches"][1:]
        tensors = load_tensors(weights)
        settings = json.dumps([sidecar["contract"], sidecar["detectron2"]], sort_keys=True)
        found[f"{name}, {sidecar['source']['branch']}"] = (
            f"{len(tensors)} tensors {tensors_sha(tensors)} {sha(settings)}"
        )
    return found


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Names and tensors of a .pth, .pt or .safetensors file."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    content = torch.load(path, weights_only=True)
    return content.get("model", content)


def tensors_sha(tensors: Mapping[str, torch.Tensor]) -> str:
    """Over name, dtype, shape and bytes of every tensor, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        tensor = torch.as_tensor(value)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:DIGITS]


@contextlib.contextmanager
def entries(table: dict[str, Any], more: Mapping[str, Any]) -> Iterator[None]:
    """`table` with more entries for a while."""
    table.update(more)
    try:
        yield
    finally:
        for name in more:
            del table[name]


# --- detector configurations ------------------------------------------------------------------------------------------


def record_detector_configs(folder: Path) -> dict[str, dict[str, str]]:
    """File in transfer/configs -> sha of all its resolved values, and those that are not Detectron2's default, as text."""
    from detectron2.config import get_cfg

    load = module("detector configuration").load_detector_config
    default = flat(get_cfg())
    found = {}
    configs = ROOT / "transfer" / "configs"
    for path in sorted(configs.rglob("*.yaml")):
        values = flat(load(path))
        text = "".join(f"{key} {value}\n" for key, value in sorted(values.items()))
        departures = {key: value for key, value in values.items() if default.get(key) != value}
        found[path.relative_to(configs).as_posix()] = {"all values": sha(text), **departures}
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A.B.C -> repr of the value."""
    found: dict[str, str] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": repr(value)}
    return found


# --- report -----------------------------------------------------------------------------------------------------------


def record_report(folder: Path) -> dict[str, Any]:
    """The lines of report.md and report.csv, and the sha of the page's elements and words, for made-up run folders."""
    with working_directory(folder):  # the report names runs by the path they were given with
        module("run folders").write_example(Path("runs"))
        run_tool("report", "runs", "--output", "report")

    def text(name: str) -> str:
        found = (folder / "report" / name).read_text(encoding="utf-8")
        for path in (str(folder.resolve()), str(folder.resolve()).replace("_", "\\_")):  # as it is, and in Markdown
            found = found.replace(f"{path}/", "")
        return found

    return {
        "report.md": text("report.md").splitlines(),
        "report.csv": text("report.csv").splitlines(),
        "index.html: elements and words, without pictures": sha(page_content(text("index.html"))),
    }


def page_content(html: str) -> str:
    """Elements with their attributes (pictures' data left out) and words in order, however the markup is written."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(f"<{tag} {sorted((key, value) for key, value in attrs if key != 'src')}>")

        def handle_endtag(self, tag: str) -> None:
            found.append(f"</{tag}>")

        def handle_data(self, data: str) -> None:
            found.extend(data.split())

    Reader().feed(re.sub(r"<style>.*?</style>", "", html, flags=re.S))
    return "\n".join(found)


@contextlib.contextmanager
def working_directory(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# --- the files --------------------------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[Path], Any]] = {
    "views": record_views,
    "losses": record_losses,
    "conversion": record_conversion,
    "detector_configs": record_detector_configs,
    "report": record_report,
}


def record(sections: Iterable[str], output: Path) -> None:
    """Write OUTPUT/SECTION.json for each section."""
    import cv2

    cv2.setNumThreads(0)
    for section in sections:
        with tempfile.TemporaryDirectory() as folder:
            values = SECTIONS[section](Path(folder))
        content = {"environment": environment(), "values": values}
        path = output / f"{section}.json"
        path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {path}: {len(values)} entries")


def main() -> None:
    global ROOT
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the files, tests/golden to record again")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose code is recorded")
    arguments = parser.parse_args()
    ROOT = arguments.root.resolve()
    sys.path[0] = str(ROOT)  # not tests/golden
    # An installed checkout would supply the modules that this one lacks.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
    arguments.output.mkdir(parents=True, exist_ok=True)
    record(arguments.sections, arguments.output.resolve())


if __name__ == "__main__":
    main()
