"""Everything that can be known before a training: configuration, data and leakage, as one list of findings.

In: `RunOptions`, as train_net.py takes them, and a pool of unlabelled images. Out: `Examination`; at most a picture of each split is
written. What is wrong in a configuration, a weight file's input, an annotation or an image is a finding; only what cannot be read
at all raises: a configuration or a weight file that is not there, a SPEC of no known form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from pretrain.base.errors import CheckpointError, ConfigError, DataError, UserError
from transfer.data.doctor import DataReport, diagnose_splits
from transfer.data.findings import Finding, by_severity, count_line, findings_document
from transfer.data.leakage import find_leakage, leakage_findings
from transfer.data.sample_picture import draw_samples
from transfer.data.spec import PreparedData, parse_spec
from transfer.detect.config import load_detector_config, resolve_config
from transfer.detect.config_files import resolve_config_path
from transfer.detect.doctor import diagnose_config
from transfer.detect.inits import Init, parse_init
from transfer.detect.loading import plan_weights
from transfer.detect.options import RunOptions
from transfer.detect.request import (
    ask_config,
    check_builtin,
    check_options,
    given_keys,
    import_modules,
    own_data,
    scaled_config,
)


@dataclass(frozen=True)
class Examination:
    """findings: the worst first. reports: of the splits that were given, by role. looked_at: what was examined, for the summary.
    notes: what --scale auto and --init set, one sentence each."""

    findings: tuple[Finding, ...]
    reports: dict[str, DataReport]
    looked_at: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line with the counts."""
        return f"{count_line(self.findings)} in {', '.join(self.looked_at)}"

    def document(self, command: str) -> dict[str, Any]:
        """For --json."""
        data = {role: report.to_dict() for role, report in self.reports.items()}
        return dict(findings_document(self.findings, data=data, notes=list(self.notes), command=command))


def examine(
    options: RunOptions, *, pool: str | None = None, pictures: Path | None = None, allow_leaks: bool = False
) -> Examination:
    """All findings. pool: unlabelled images, as data.root takes them, or a SPEC. pictures: a folder for samples of each split.
    allow_leaks: test images in the pool are warnings.

    Raises ConfigError, CheckpointError or DataError for what cannot be read at all.
    """
    if not options.config_file and not (options.train_data or options.test_data):
        raise ConfigError(
            "nothing to look at: give --config-file, --train-data SPEC, --test-data SPEC, or several of them"
        )
    if pool is not None and not options.test_data:
        raise ConfigError("--pool is compared with the test images: give --test-data SPEC, too")
    import_modules(options.modules)
    specs = {"train": options.train_data, "test": options.test_data}
    config, init = _asked(options) if options.config_file else (None, None)
    size = (config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST) if config is not None else None
    reports, findings = diagnose_splits(
        specs, options=options.read, **({"working_size": size} if size and size[0] > 0 else {})
    )
    notes: tuple[str, ...] = ()
    looked_at = [f"{len(reports)} split{'s' * (len(reports) > 1)}"] if reports else []
    if config is not None:
        unreadable = any(finding.severity == "error" for finding in findings)
        found, notes = _configuration(options, config, init, unreadable)
        findings, looked_at = [*found, *findings], ["the configuration", *looked_at]
    if options.test_data and (pool is not None or options.train_data):
        findings += _leakage(pool, options.train_data, options.test_data, reports, allow_pool=allow_leaks)
        looked_at.append("the images of pool, training and test data" if pool else "the images of both splits")
    if pictures is not None:
        _draw(reports, pictures)
    return Examination(tuple(by_severity(findings)), reports, tuple(looked_at), notes)


def _asked(options: RunOptions) -> tuple[CfgNode, Init | None]:
    """The configuration as asked for, before the initialisation is written in."""
    config = load_detector_config(resolve_config_path(options.config_file), options.overrides)
    return config, parse_init(options.init, trust=options.trust) if options.init is not None else None


def _configuration(
    options: RunOptions, config: CfgNode, init: Init | None, unreadable: bool
) -> tuple[list[Finding], tuple[str, ...]]:
    """Findings on the configuration that the run would have; where it would be refused, on the one that was asked for.

    unreadable: whether the data have errors, of which the run's own refusal says nothing new.
    """
    refusals: list[Finding] = []
    notes: tuple[str, ...] = ()
    data: PreparedData | None = None
    train, test = (parse_spec(text) if text else None for text in (options.train_data, options.test_data))
    try:
        check_options(options, train, test)
        config, init, notes = ask_config(options)
        weights = plan_weights(config, eval_only=False, resume=options.resume, trust=options.trust)
    except (ConfigError, CheckpointError) as error:
        refusals.append(_refusal(error))
        weights = None
    if weights is not None:
        try:
            data, _ = own_data(options, train, test, weights)
        except UserError as error:
            if not unreadable:
                refusals.append(_refusal(error))
    try:
        config, scaled = scaled_config(options, config, data)
        notes = (*notes, *scaled)
    except ConfigError as error:
        refusals.append(_refusal(error))
    given = given_keys(options)
    try:
        resolved, _ = resolve_config(config, given=given, data=data, num_processes=options.num_processes)
        if data is None and not (train or test):
            check_builtin(resolved, eval_only=False)
    except (ConfigError, DataError) as error:
        refusals.append(_refusal(error))
    else:
        config = resolved
    found = diagnose_config(config, data=data, init=init, num_processes=options.num_processes)
    if refusals and any(finding.severity == "error" for finding in found):  # named more precisely
        refusals = [refusal for refusal in refusals if not _told(refusal, found)]
    if not (train or test or config.DATASETS.TRAIN):
        change = "--train-data SPEC --test-data SPEC"
        found.append(
            Finding(
                "config/no-data", "note", "--train-data", "no data given: what concerns them was not looked at", change
            )
        )
    return [*refusals, *found], notes


def _refusal(error: UserError) -> Finding:
    """What the run itself would stop with."""
    message, _, change = str(error).partition("; pass ")
    kind = "weights" if isinstance(error, CheckpointError) else "data" if isinstance(error, DataError) else "refused"
    return Finding(f"config/{kind}", "error", "train_net.py", message, change)


def _told(refusal: Finding, found: list[Finding]) -> bool:
    """Whether a refusal is one of the errors that the doctor found, in the run's own words."""
    return any(finding.severity == "error" and finding.where in refusal.message for finding in found)


def _leakage(
    pool: str | None, train: str | None, test: str, reports: dict[str, DataReport], *, allow_pool: bool
) -> list[Finding]:
    """Test images among the others. Splits of which nothing could be read are left out; what is wrong with them is said elsewhere."""
    readable = {role: report.data is not None and bool(report.images) for role, report in reports.items()}
    if not readable["test"]:
        return []
    unread: list[Finding] = []

    def note(name: str, reason: str) -> None:
        unread.append(Finding("leakage/unreadable", "note", name, f"not compared with the others: {reason}", ""))

    try:
        leaks = find_leakage(pool, train if readable.get("train") else None, test, on_unreadable=note)
    except DataError as error:
        return [replace(_refusal(error), id="leakage/not-compared", where=pool or train or test)]
    return [*leakage_findings(leaks, allow_pool=allow_pool), *dict.fromkeys(unread)]


def _draw(reports: dict[str, DataReport], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for role, report in reports.items():
            if report.data is not None:
                draw_samples(report.data, folder / f"{role}.png")
    except OSError as error:
        raise ConfigError(f"--pictures {folder} cannot be written: {error.strerror or error}") from None
