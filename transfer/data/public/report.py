"""What the command does with names of data sets, and what it says.

In: names and options as typed. Out: lines, and the exit code: 0, or 1 where something is wrong with the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.base.errors import ConfigError, did_you_mean
from transfer.data.public.prepare import Sources, describe, make_plan, prepare
from transfer.data.public.progress import Announce, bytes_text
from transfer.data.public.table import DATA_SETS, PublicDataset
from transfer.data.public.verify import find_problems

EXIT_PROBLEMS = 1


@dataclass(frozen=True)
class Request:
    """One command. names: of data sets. verify, dry_run: instead of preparing. base_url, archives: see `prepare.Sources`."""

    names: Sequence[str]
    root: Path
    archives: Path | None = None
    base_url: str | None = None
    verify: bool = False
    dry_run: bool = False
    delete_archives: bool = False


def table_text(data_sets: Mapping[str, PublicDataset] = DATA_SETS) -> str:
    """Names, titles and sizes, for --help."""
    width = max(len(dataset.title) for dataset in data_sets.values())
    lines = [
        f"  {name:11} {dataset.title:{width}}  {bytes_text(dataset.download):>8} of archives, {bytes_text(dataset.unpacked):>8} unpacked"
        for name, dataset in data_sets.items()
    ]
    return "\n".join(["data sets:", *lines])


def run_request(request: Request, announce: Announce, data_sets: Mapping[str, PublicDataset] = DATA_SETS) -> int:
    """Prepare, verify or describe; the exit code. Raises ConfigError, DataError."""
    for name in request.names:
        if name not in data_sets:
            raise ConfigError(
                f"no public data set {name!r}; expected one of {', '.join(data_sets)}{did_you_mean(name.lower(), data_sets)}"
            )
    if request.root.exists() and not request.root.is_dir():
        raise ConfigError(f"--root {request.root}: expected a folder, found a file")
    given = {
        "--archives": request.archives,
        "--base-url": request.base_url,
        "--delete-archives": request.delete_archives,
    }
    if request.verify and any(given.values()):
        ignored = ", ".join(option for option, value in given.items() if value)
        raise ConfigError(f"--verify reads what is below --root and fetches nothing: leave out {ignored}")
    sources = Sources(request.archives, request.base_url)
    found = [_one(name, data_sets[name], request, sources, announce) for name in dict.fromkeys(request.names)]
    return EXIT_PROBLEMS if any(found) else 0


def _one(name: str, dataset: PublicDataset, request: Request, sources: Sources, announce: Announce) -> bool:
    """Whether something is wrong with it."""
    root = request.root
    if request.dry_run:
        plan = make_plan(name, dataset, root, sources)
        for line in describe(plan, root, sources, delete_archives=request.delete_archives):
            announce(line)
        return False
    if request.verify:
        problems = find_problems(name, dataset, root)
        compared = "counts, annotations, the bytes of every file and of the archives that are there"
    else:
        problems = iter(
            prepare(name, dataset, root, sources, delete_archives=request.delete_archives, announce=announce)
        )
        compared = "counts and annotations"
    count = 0
    for problem in problems:
        announce(f"problem: {problem}")
        count += 1
    if count:
        announce(f"{name}: {count:,} problems in {root}")
        return True
    announce(f"{name}: sound ({compared})")
    for note in dataset.notes:
        announce(f"note: {note}")
    for use in dataset.uses:
        announce(f"use:  {use.format(root=root)}")
    return False
