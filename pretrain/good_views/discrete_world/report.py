"""What tools/discrete_world.py prints and writes: examples of the regimes, and the enumeration of Proposition 3.1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pretrain.base.atomic import write_json
from pretrain.base.errors import ConfigError, DataError
from pretrain.good_views.discrete_world.regimes import (
    BIT,
    Outcome,
    demonstration_world,
    draw_regimes,
    envelope,
    examine,
    examine_all,
)
from pretrain.good_views.discrete_world.world import (
    Enumeration,
    World,
    enumerate_views,
    label_information,
    product_world,
)

MAX_LABELS = 32  # 58,905 ways to deal them to four classes
EXAMPLES = (
    ("u", "w"),
    ("uc", "ud"),
    ("uwc", "uwde"),
    ("uw", "uw"),
    ("uwc", "uwc"),
    ("uwcd", "uwcd"),
    ("uwcde", "uwcde"),
    ("ucde", "ucde"),
    ("cde", "cde"),
)


def enumerated_worlds() -> dict[str, World]:
    """The worlds in which every pair of views is tried: labels that x determines, with and without luck, and noisy ones."""
    return {
        "independent nuisances": product_world({"s": (0.5, 0.5), "a": (0.5, 0.5), "b": (0.5, 0.5)}, label=("s",)),
        "one skewed nuisance": product_world({"s": (0.3, 0.7), "a": (0.5, 0.3, 0.2)}, label=("s",)),
        "noisy labels": product_world({"s": (0.3, 0.7), "a": (0.5, 0.3, 0.2)}, label=("s",), label_noise=0.1),
    }


def run(output_dir: Path | None, *, num_labels: int) -> Iterator[str]:
    """Yield the report's lines. Raises ConfigError for a number of labels out of range, DataError for a folder that cannot be."""
    if not 1 <= num_labels <= MAX_LABELS:
        raise ConfigError(f"--num-labels: expected 1 to {MAX_LABELS}, found {num_labels}")
    if output_dir is not None:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"--output-dir {output_dir}: expected a folder that can be written, found: {error.strerror}"
            ) from error
    world = demonstration_world()
    task = label_information(world, world.inputs)
    yield f"World: {len(world.probability)} inputs, y = (u, w), nuisances c, d, e. I(x;y) = {task / BIT:.2f} bits."
    yield f"A view sees some factors. z1: minimal sufficient code of v1 about v2. Accuracy: exact, with {num_labels} labels\n"
    yield (
        f"{'v1':6} {'v2':6} {'I(v1;v2)':>8} {'I(z1;y)':>8} {'I(z1;x|y)':>9} {'accuracy':>9} {'unlimited':>9}  regime"
    )
    examples = [examine(world, tuple(first), tuple(second), num_labels=num_labels) for first, second in EXAMPLES]
    yield from map(_line, examples)
    yield "\nProposition 3.1, every ordered pair of views (set partitions of the inputs) that is sufficient for y; bits"
    found = {}
    for name, enumerated in enumerated_worlds().items():
        found[name] = enumerate_views(enumerated)
        yield from _enumeration_lines(name, found[name])
    if output_dir is None:
        return
    outcomes = examine_all(world, num_labels=num_labels)
    value = {
        "unit": "nats",
        "task_information": task,
        "num_labels": num_labels,
        "examples": [outcome.to_plain() for outcome in examples],
        "all_pairs": [outcome.to_plain() for outcome in outcomes],
        "envelope": [{"shared": shared, "accuracy": accuracy} for shared, accuracy in envelope(outcomes, task)],
        "enumerations": {
            name: {**asdict(e), "reaches_task_information": e.reaches_task_information, "holds": e.holds}
            for name, e in found.items()
        },
    }
    picture, table = output_dir / "regimes.png", output_dir / "regimes.json"
    try:
        draw_regimes(picture, world, outcomes)
        write_json(table, value)
    except OSError as error:
        raise DataError(f"{output_dir}: expected a folder that can be written, found: {error.strerror}") from error
    yield f"\n{len(outcomes)} pairs of views\nwrote {picture}\nwrote {table}"


def _line(outcome: Outcome) -> str:
    note = (
        ", optimal" if outcome.optimal else ", and none of it the task" if outcome.shared > outcome.label == 0 else ""
    )
    return (
        f"{outcome.first:6} {outcome.second:6} {outcome.shared / BIT:8.2f} {outcome.label / BIT:8.2f} "
        f"{outcome.nuisance / BIT:9.2f} {100 * outcome.accuracy:8.1f}% {100 * outcome.best_accuracy:8.1f}%  "
        f"{outcome.regime}{note}"
    )


def _enumeration_lines(name: str, found: Enumeration) -> Iterator[str]:
    yield (
        f"{name}: {found.num_inputs} inputs, {found.num_views} views, {found.num_sufficient} sufficient, "
        f"{found.num_pairs} pairs, {found.num_minimisers} of least I(v1;v2)"
    )
    sign, note = "=", ""
    if not found.reaches_task_information:
        sign, note = ">", ": out of reach, the least is H(t), t the class of p(y|x)"
    yield f"  least I(v1;v2) = {found.least_sharing / BIT:.4f} {sign} I(x;y) = {found.task_information / BIT:.4f}{note}"
    verdict = "optimal" if found.holds else "NOT optimal"
    yield (
        f"  codes of all minimisers: I(z;y) >= {found.minimisers_label_information / BIT:.4f}, I(z;x|y) <= "
        f"{found.minimisers_nuisance / BIT:.4f} (no sufficient code has under {found.least_nuisance / BIT:.4f}): {verdict}"
    )
    others = "none" if found.others_nuisance is None else f"I(z;x|y) >= {found.others_nuisance / BIT:.4f}"
    yield f"  control, codes of all other pairs: {others}; of the maximisers: >= {found.maximisers_nuisance / BIT:.4f}"
