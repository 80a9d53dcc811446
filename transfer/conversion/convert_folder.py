"""A folder of checkpoints at once, so that a training run can be transferred over time. Read `convert_folder` first.

In: a run of tools/pretrain.py, or any folder of weight files. Out: one conversion with its proof for each, in an output folder,
in the order of their steps; what is there already from the same file is left alone, what fails is reported at the end.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from pretrain.base.errors import CheckpointError, ConfigError, UserError
from pretrain.run.checkpoint import CHECKPOINT_DIR
from transfer.conversion.convert import convert
from transfer.conversion.sidecar import read_sidecar
from transfer.conversion.targets import DEFAULT_TARGET, TARGETS, Target, target_named
from transfer.conversion.weight_files import file_sha256

ENDINGS = (".pth.tar", ".pt.tar", ".pth", ".pt", ".ckpt", ".tar", ".safetensors", ".pkl", ".bin")


@dataclass(frozen=True)
class Outcome:
    """What became of one checkpoint. reason: why it failed."""

    source: Path
    output: Path
    status: Literal["converted", "already there", "failed"]
    reason: str = ""


def convert_folder(
    source_dir: Path,
    output_dir: Path,
    *,
    to: str = DEFAULT_TARGET,
    layout: str = "auto",
    branch: str | None = None,
    method: str | None = None,
    overwrite: bool = False,
    untrained: bool = False,
    command: str = "",
) -> list[Outcome]:
    """Convert every weight file of `source_dir` (a run: of its checkpoints/) into `output_dir`, lowest step first.

    A failure is an `Outcome`, not an exception: the others are still converted, and stay. overwrite: convert again what is
    there. untrained: encoders that were never trained, too. method, command: as `convert` has them. Raises ConfigError for what
    would stop all of them: the folders, the target, two files of one name.
    """
    target = target_named(to)
    target.require()
    if output_dir.suffix == target.suffix != "" or (output_dir.exists() and not output_dir.is_dir()):
        raise ConfigError(
            f"INPUT {source_dir} is a folder, so OUTPUT must be one too, found {output_dir}; to convert one file, pass its path"
        )
    others = [other.name for other in TARGETS if other.suffix and other.suffix == output_dir.suffix]
    if others and not output_dir.exists():
        raise ConfigError(
            f"OUTPUT {output_dir} is named like a file of another target; pass --to {others[0]}, or a folder"
        )
    sources = find_checkpoints(source_dir)
    if output_dir.exists() and output_dir.samefile(sources[0].parent):
        raise ConfigError(
            f"the checkpoints are in OUTPUT {output_dir}, where converted files would be taken for such; pass another"
        )
    pairs = list(_pairs(sources, output_dir, target))
    outcomes = []
    options = {
        "layout": layout,
        "branch": branch,
        "method": method,
        "overwrite": overwrite,
        "untrained": untrained,
        "command": command,
    }
    with tqdm(pairs, unit="checkpoint", desc=f"to {target.name}") as bar:
        for source, output in bar:
            bar.set_postfix_str(source.name)
            outcomes.append(_convert_one(source, output, target, options))
    return outcomes


def is_one_file(output: Path, to: str) -> bool:
    """Whether OUTPUT names one file of the target `to`, so that of a run's folder the newest checkpoint is meant."""
    suffix = target_named(to).suffix
    return bool(suffix) and output.suffix == suffix and not output.is_dir()


def find_checkpoints(source_dir: Path) -> list[Path]:
    """Weight files of a folder, or of its checkpoints/, lowest step first. Raises ConfigError when there are none."""
    if not source_dir.is_dir():
        raise ConfigError(f"no folder at {source_dir}")
    inner = source_dir / CHECKPOINT_DIR
    folder = inner if inner.is_dir() else source_dir
    paths = [path for path in folder.iterdir() if _stem(path) is not None and path.is_file()]
    if not paths:
        raise ConfigError(f"no weight files in {folder}: expected names that end in {', '.join(ENDINGS)}")
    return sorted(paths, key=_step)


def _stem(path: Path) -> str | None:
    """The name without its ending, None for what is no weight file: hidden ones are drafts."""
    ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), None)
    return None if ending is None or path.name.startswith(".") else path.name.removesuffix(ending)


def _step(path: Path) -> tuple[int, str]:
    """Sorting key: the last number of the name (step_00000400, checkpoint_0199), names without one first."""
    numbers = re.findall(r"\d+", _stem(path) or "")
    return (int(numbers[-1]) if numbers else -1, path.name)


def _pairs(sources: list[Path], output_dir: Path, target: Target) -> Iterator[tuple[Path, Path]]:
    outputs = [output_dir / f"{_stem(source)}{target.suffix}" for source in sources]
    for output, count in Counter(outputs).items():
        if count > 1:
            names = ", ".join(s.name for s, o in zip(sources, outputs, strict=True) if o == output)
            raise ConfigError(f"{names} would all become {output}; rename them, or convert them one by one")
    return zip(sources, outputs, strict=True)


def _convert_one(source: Path, output: Path, target: Target, options: dict[str, Any]) -> Outcome:
    """options: those of `convert`."""
    try:
        if not options["overwrite"] and _is_there(source, output, target, options):
            return Outcome(source, output, "already there")
        convert(source, output, to=target.name, **options)
    except UserError as error:
        return Outcome(source, output, "failed", str(error))
    return Outcome(source, output, "converted")


def _is_there(source: Path, output: Path, target: Target, options: dict[str, Any]) -> bool:
    """Whether `output` is a whole, proven conversion of this very file: same hash, target, layout, branch and stated method."""
    try:
        sidecar = read_sidecar(target.weights_path(output))
    except CheckpointError:
        return False
    recorded = sidecar.source
    wanted = options["branch"] or next(iter(recorded.get("branches", [])), None)
    return (
        source.is_file()
        and recorded.get("sha256") == file_sha256(source)
        and recorded.get("branch") == wanted
        and options["layout"] in ("auto", recorded.get("layout"))
        and options["method"] in (None, recorded.get("method"))
        and sidecar.target == target.name
    )
