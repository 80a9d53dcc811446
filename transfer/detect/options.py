"""What a detection command asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from transfer.data.problems import ReadOptions

Scale = Literal["none", "auto"]


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks for.

    config_file: as given; found beside the caller or among the shipped ones.
    overrides: KEY VALUE words.
    train_data, test_data: SPEC text of the user's own data; None = what the configuration names.
    read: what to do about doubtful data; the class names.
    eval_only: evaluate, do not train.
    resume: go on with OUTPUT_DIR's own newest checkpoint.
    allow_change: keys in which a resumed run may differ from how it began.
    trust: accept weights without a sidecar.
    init: text of --init: what to start from (transfer/detect/inits.py); None = MODEL.WEIGHTS of the configuration.
    command: the exact command, for the record.
    num_processes: how many train together, on num_machines.
    scale: "auto" sets batch, rate, schedule and anchors for this machine and these data (transfer/detect/scaling.py).
    accumulate: parts in which the images of a process are run, with one step of the optimiser for all.
    modules: imported first, for data sets and parts that a user registers.
    """

    config_file: str
    overrides: tuple[str, ...] = ()
    train_data: str | None = None
    test_data: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    eval_only: bool = False
    resume: bool = False
    allow_change: tuple[str, ...] = ()
    trust: bool = False
    init: str | None = None
    command: str = ""
    num_processes: int = 1
    num_machines: int = 1
    scale: Scale = "none"
    accumulate: int = 1
    modules: tuple[str, ...] = ()
