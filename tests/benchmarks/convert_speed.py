"""How fast a checkpoint becomes Detectron2 weights, against the reference's converter, and what memory that takes.

    python tests/benchmarks/convert_speed.py [--repeats 7] [--folder FOLDER]

Makes a checkpoint like PyContrast's (ResNet-50, its copy, a queue of 65536 x 128, the optimizer's momentum: some 350 MB) and
converts it in turns, each time in a fresh process: the reference's way, ours up to the written file, ours with its proof.
Out: medians, [smallest-largest], ratios and memory. Only ratios of one run mean something: machines and hours differ.
The reference's way is written from its description [specification 2.1]: torch.load with weights_only=False, names, pickle.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def make_checkpoint(path: Path, arch: str = "resnet50") -> None:
    """A file with the containers and names of PyContrast's MoCo v2; with a ResNet-50 also its sizes."""
    import torch

    from pretrain.model.encoder import ResNetEncoder

    torch.manual_seed(0)
    state = ResNetEncoder(arch).state_dict()
    for name, tensor in state.items():  # as if trained: the converter refuses an encoder that has seen no image
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    head = {"head.0.weight": (2048, 2048), "head.0.bias": (2048,), "head.2.weight": (128, 2048), "head.2.bias": (128,)}

    def network(prefix: str) -> dict[str, torch.Tensor]:
        encoder = {f"{prefix}encoder.{name}": tensor.clone() for name, tensor in state.items()}
        return encoder | {f"{prefix}head.{name}": torch.randn(size) for name, size in head.items()}

    model = network("module.")
    momentum = {
        i: {"momentum_buffer": torch.randn_like(t)} for i, t in enumerate(model.values()) if t.is_floating_point()
    }
    content = {
        "opt": argparse.Namespace(method="MoCov2", lr=0.03),
        "model": model,
        "contrast": {"memory": torch.randn(65536, 128)},
        "optimizer": {"state": momentum, "param_groups": [{"lr": 0.03, "params": list(momentum)}]},
        "epoch": 200,
        "model_ema": network(""),
    }
    torch.save(content, path)


def reference(source: Path, folder: Path) -> Callable[[], None]:
    """The reference's way: everything into memory, names by replacement, a pickle of arrays."""
    import torch

    def work() -> None:
        content = torch.load(source, map_location="cpu", weights_only=False)
        arrays = {}
        for name, tensor in content["model"].items():
            if not name.startswith("module.encoder."):
                continue
            name = name.removeprefix("module.encoder.")
            name = name if "layer" in name else f"stem.{name}"
            for number in (1, 2, 3, 4):
                name = name.replace(f"layer{number}", f"res{number + 1}").replace(f"bn{number}", f"conv{number}.norm")
            name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
            arrays[name] = tensor.numpy()
        with open(folder / "reference.pkl", "wb") as file:
            pickle.dump({"model": arrays, "__author__": "reference", "matching_heuristics": True}, file)

    return work


def mapped(source: Path, folder: Path) -> Callable[[], None]:
    """The least that any safe way can do: torch's own mapped reader, names, a pickle of protocol 5. Nothing is checked."""
    import torch

    torch.serialization.add_safe_globals([argparse.Namespace])

    def work() -> None:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
        arrays = {name: tensor.numpy() for name, tensor in content["model"].items() if "encoder." in name}
        with open(folder / "mapped.pkl", "wb") as file:
            pickle.dump({"model": arrays}, file, protocol=5)

    return work


def unproven(source: Path, folder: Path) -> Callable[[], None]:
    """Ours: read in a capped child process, recognise, map, verify checksums, look for NaN, write."""
    from transfer.conversion.export_detectron2 import write
    from transfer.conversion.sources import load_backbone

    return lambda: write(folder / "unproven.pth", load_backbone(source))


def proven(source: Path, folder: Path) -> Callable[[], None]:
    """Ours, the whole command."""
    from transfer.conversion.convert import convert

    return lambda: convert(source, folder / "proven.pth", overwrite=True) and None


def flushed(source: Path, folder: Path) -> Callable[[], None]:
    """The reference's way, then the flush to the disk that it leaves out."""
    work = reference(source, folder)

    def both() -> None:
        work()
        descriptor = os.open(folder / "reference.pkl", os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    return both


WAYS = {"reference": reference, "reference+fsync": flushed, "floor": mapped, "ours": unproven, "ours+proof": proven}


def memory(field: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS (held now) or VmHWM (most since the last reset); pages of files count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def private() -> int:
    """Memory that this process holds now without pages of files, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def run_one(way: str, source: Path, folder: Path) -> None:
    """In the fresh process: time and memory of one conversion, as JSON. Imports are not counted; the child process is."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    work = WAYS[way](source, folder)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux)
    before, private_before = memory("VmRSS"), private()
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    work()
    seconds, cpu = time.perf_counter() - start, sum(os.times()[:4]) - cpu
    extra = memory("VmHWM") - before
    print(json.dumps({"seconds": seconds, "cpu": cpu, "extra": extra, "private": private() - private_before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's folder for such)")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--ways", default=",".join(WAYS), help=f"some of {','.join(WAYS)}")
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one, arguments.folder / "source.pth", arguments.folder)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        found = measure(folder, ways=arguments.ways.split(","), turns=arguments.repeats)
        print(f"source: {(folder / 'source.pth').stat().st_size / 2**20:.0f} MiB, {arguments.repeats} turns")
        report(found, folder)


def measure(
    folder: Path, *, ways: Sequence[str], turns: int, arch: str = "resnet50"
) -> dict[str, list[dict[str, float]]]:
    """Of each way and turn: "seconds", "cpu" (seconds of all cores), "extra" and "private" (bytes of memory)."""
    make_checkpoint(folder / "source.pth", arch)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, results in found.items():
            os.sync()  # nobody waits for what another way wrote
            command = [sys.executable, __file__, "--one", way, "--folder", str(folder)]
            results.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    return found


def report(found: dict[str, list[dict[str, float]]], folder: Path) -> None:
    """The table."""
    output = (folder / "unproven.pth").stat().st_size if "ours" in found else 1

    def median(way: str, key: str) -> float:
        return statistics.median(result[key] for result in found[way])

    print(
        f"{'way':17}{'median ms':>10}  {'[min-max]':14}{'x faster':>9}{'cpu ms':>8}{'x less':>7}"
        f"{'extra MiB':>11}{'x output':>9}{'private MiB':>12}"
    )
    for way, results in found.items():
        seconds = [1000 * result["seconds"] for result in results]
        span = f"[{min(seconds):.0f}-{max(seconds):.0f}]"
        print(
            f"{way:17}{1000 * median(way, 'seconds'):10.0f}  {span:14}"
            f"{median('reference', 'seconds') / median(way, 'seconds'):9.1f}{1000 * median(way, 'cpu'):8.0f}"
            f"{median('reference', 'cpu') / max(median(way, 'cpu'), 0.001):7.1f}"
            f"{median(way, 'extra') / 2**20:11.0f}{median(way, 'extra') / output:9.2f}{median(way, 'private') / 2**20:12.0f}"
        )
    print(f"output: {output / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
