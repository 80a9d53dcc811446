"""Which settings of a detector make an experiment: two runs are comparable where these agree.

In: a Detectron2 configuration as plain values, also one from a record. Out: {"GROUP.KEY": value}. Needs no Detectron2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.base.record import without

# What a comparison is about: the weights, how they want their input, the seed.
SUBJECT = (
    "SEED",
    "MODEL.WEIGHTS",
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
)
# Where a run takes place, and how often it writes. A data set is known by its content, whatever its name.
DECIDES_NOTHING = (
    "OUTPUT_DIR",
    "DATASETS",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "CUDNN_BENCHMARK",
    "SOLVER.REFERENCE_WORLD_SIZE",  # the schedule of a record is scaled already
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "TEST.EXPECTED_RESULTS",
    "VIS_PERIOD",
    "VERSION",
)


def experiment_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration decides a figure, less the subject of a comparison."""
    return without(config, (*SUBJECT, *DECIDES_NOTHING))
