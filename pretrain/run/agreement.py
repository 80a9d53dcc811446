"""Whether all ranks were started as the same run. On several machines the command is given on each of them, and may be mistyped on one.

In: this rank's configuration. Out: ConfigError on every rank where one differs in what must be the same everywhere.
"""

from __future__ import annotations

from pretrain.base.errors import ConfigError
from pretrain.base.record import without
from pretrain.base.same_run import LONGEST_SHOWN
from pretrain.config import RunConfig, to_plain
from pretrain.run.ranks import Ranks, gather_values

# What a machine may have its own way: where its images lie, what the main rank alone reads, and how a step is computed. The images
# are compared by their names and sizes (pretrain/data/manifest.py). All the rest decides what is computed, or when ranks meet.
OF_A_MACHINE = (
    "data.root",
    "data.num_workers",
    "monitor.labelled",
    "monitor.max_images",
    "monitor.neighbours",
    "monitor.trackers",
    "runtime.device",
    "runtime.channels_last",
    "runtime.cuda_graph",
    "runtime.compile",
    "runtime.timeout_s",
)
SHOWN_RANKS = 3


def require_agreement(config: RunConfig, ranks: Ranks) -> None:
    """Raise ConfigError on every rank, naming ranks and keys, unless all were given the same run. Every rank calls this."""
    first, *others = gather_values(without(to_plain(config), OF_A_MACHINE), ranks)
    different = []
    for rank, own in enumerate(others, 1):
        keys = [key for key in sorted(first.keys() | own.keys()) if first.get(key) != own.get(key)]
        if keys:
            values = (f"{key}={_shown(own.get(key))}, on rank 0 {_shown(first.get(key))}" for key in keys)
            different.append(f"rank {rank} has {'; '.join(values)}")
    if different:
        more = f"; and {len(different) - SHOWN_RANKS} more ranks" if len(different) > SHOWN_RANKS else ""
        raise ConfigError(
            f"expected one configuration on all {ranks.world_size} ranks, found that {'; '.join(different[:SHOWN_RANKS])}{more}. "
            "Nothing was begun; give the same command, with the same files, on every machine"
        )


def _shown(value: object) -> str:
    return f"{value!r:.{LONGEST_SHOWN}}"
