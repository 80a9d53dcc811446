"""What a doctor found: one thing that is wrong or doubtful in a configuration, a data set or a split, and the line to change.

In: findings of `transfer.detect.doctor`, `transfer.data.doctor` and `transfer.data.leakage`. Out: the worst severity, the exit
code of a tool, and the document that `--json FILE` writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)  # the worst first
EXIT_ERRORS_FOUND = 1  # 0: no error found; 2: input that cannot be read at all, or wrong usage (pretrain.base.errors)


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    id: stable, ROOM/WHAT: "config/frozen-stages", "data/box-outside", "leakage/exact".
    severity: error: the run would fail or its figures would be wrong; warning: they would be worse than need be; note: to know.
    where: the file and the object in it, or the configuration key.
    message: what was found, and what was expected.
    change: the line to change, or what to pass; "" where there is nothing to do.
    """

    id: str
    severity: Severity
    where: str
    message: str
    change: str

    def __post_init__(self) -> None:
        assert self.severity in SEVERITIES, self.severity
        assert self.id.count("/") == 1, self.id

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> Severity | None:
    """The worst severity among them, None where there are none."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in found), None)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where no error is among them, else EXIT_ERRORS_FOUND."""
    return EXIT_ERRORS_FOUND if worst(findings) == "error" else 0


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first; those of one severity in the order in which they came."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def count_line(findings: Iterable[Finding]) -> str:
    """ "2 errors, 1 warning, 0 notes"."""
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(f"{counts[name]} {name}{'' if counts[name] == 1 else 's'}" for name in SEVERITIES)


def finding_lines(findings: Iterable[Finding], *, most: int, rest: str) -> list[str]:
    """For a screen, in their order: a line each, with the line to change below it. most: of one id; rest: where the others are."""
    lines: list[str] = []
    shown: Counter[str] = Counter()
    for finding in findings:
        shown[finding.id] += 1
        if shown[finding.id] <= most:
            lines.append(f"{finding.severity:8} {finding.id:30} {finding.where}: {finding.message}")
            lines += [f"{'':8} change: {finding.change}"] if finding.change else []
    lines += [f"{'':8} {what}: {count - most} more; {rest}" for what, count in shown.items() if count > most]
    return lines


def findings_document(findings: Sequence[Finding], **more: Any) -> Mapping[str, Any]:
    """What `--json FILE` holds: the counts, the findings (the worst first), and `more`."""
    return {
        "counts": {name: sum(finding.severity == name for finding in findings) for name in SEVERITIES},
        "findings": [finding.to_dict() for finding in by_severity(findings)],
        **more,
    }
