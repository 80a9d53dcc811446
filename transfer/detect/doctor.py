"""What an expert would say of a detection configuration before it runs: mistakes that no program stops at, with the line to change.

In: a configuration (as asked for or resolved), the data, the initialisation, the number of processes. Out: `Finding`s, the worst
first. Nothing is read but the sidecar of the weights, nothing is built with values, nothing raises for what it finds.

Severity: "error" where the run would fail or teach nothing; "warning" where it would be worse, longer or less safe than it need be;
"note" for what an expert would mention. Rules that hold a figure say where it comes from. One check is one function of CHECKS;
they stand in doctor_backbone.py, doctor_schedule.py, doctor_machine.py and doctor_data.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from detectron2.config import CfgNode

from pretrain.base.errors import ConfigError
from transfer.data.findings import Finding, by_severity
from transfer.data.spec import PreparedData
from transfer.detect.doctor_backbone import (
    batchnorm_few_images,
    extra_norm,
    frozen_batchnorm,
    frozen_stages,
    input_contract,
    norm_of_weights,
    pixel_values,
    precise_batchnorm,
    syncbn_one_process,
)
from transfer.detect.doctor_case import Case, finding
from transfer.detect.doctor_data import (
    anchors,
    classes,
    detections,
    evaluation_cost,
    flipped_classes,
    ignored_keys,
    image_size,
    masks,
    test_data,
    unlabelled_images,
)
from transfer.detect.doctor_machine import batch_divisible, checkpoints, image_memory, mixed_precision
from transfer.detect.doctor_schedule import clip_gradients, epochs, learning_rate, rate_steps, warmup
from transfer.detect.inits import Init
from transfer.detect.memory import device_memory


def diagnose_config(
    config: CfgNode,
    *,
    data: PreparedData | None = None,
    init: Init | None = None,
    num_processes: int = 1,
    memory: int | None = None,
) -> list[Finding]:
    """Everything that CHECKS find, the worst first.

    data: the user's own; None where the configuration names built-in data sets. init: None takes MODEL.WEIGHTS. memory: bytes of one
    device; None asks this machine.
    """
    case = Case(config, data, init, num_processes, device_memory(config) if memory is None else memory)
    return by_severity(finding for check in CHECKS for finding in _run(check, case))


def _run(check: Callable[[Case], Iterator[Finding]], case: Case) -> list[Finding]:
    """The findings of one check. Values that it cannot be computed with (a batch of 0, an empty list of sizes) are found as such:
    Detectron2 stops at them with a message of its own, or with none."""
    try:
        return list(check(case))
    except (ArithmeticError, ValueError, IndexError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        return [finding("unchecked", "note", check.__name__, f"could not be checked with these values ({reason})", "")]


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    frozen_stages,
    frozen_batchnorm,
    extra_norm,
    syncbn_one_process,
    batchnorm_few_images,
    precise_batchnorm,
    input_contract,
    pixel_values,
    norm_of_weights,
    learning_rate,
    warmup,
    rate_steps,
    epochs,
    clip_gradients,
    batch_divisible,
    image_memory,
    mixed_precision,
    checkpoints,
    classes,
    anchors,
    image_size,
    masks,
    test_data,
    evaluation_cost,
    unlabelled_images,
    detections,
    flipped_classes,
    ignored_keys,
)


def refuse_errors(findings: Sequence[Finding]) -> None:
    """Raises ConfigError with every error among them and the line to change."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise ConfigError("\n  ".join(["the configuration would fail, or teach nothing:", *map(sentence, errors)]))


def sentence(finding: Finding) -> str:
    """A finding in one line, with what to pass."""
    change = f"; pass {finding.change}" if finding.change else ""
    return f"{finding.where}: {finding.message}{change} [{finding.id}]"
