"""What studies and sweeps check before their first stage: all that a later stage would refuse after hours of pre-training.

Everything is read as the later commands read it, by their own readers; a detector is built without memory for its values.
Nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError, UserError
from pretrain.base.shapes_only import shapes_only
from transfer.readout.config import load_linear_config
from transfer.readout.features import load_splits

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from transfer.data.spec import PreparedData


@dataclass(frozen=True)
class DetectionCheck:
    """data: what was read; None where there was nothing to read yet. warnings: of the configuration, one sentence each."""

    data: PreparedData | None
    warnings: tuple[str, ...]


def check_readout(data: Path | None, config_file: Path | None, overrides: Sequence[str] = ()) -> None:
    """Configuration, class folders (the same classes in train/ and val/) and images of a readout.

    data: None where they are not there yet. Raises ConfigError or DataError as tools/linear_eval.py does.
    """
    load_linear_config(config_file, overrides)
    if data is not None:
        load_splits(data)


def check_detection(
    config_file: Path,
    overrides: Sequence[str] = (),
    *,
    train_data: str | None,
    test_data: str | None,
    init: str = "random",
    arch: str | None = None,
    keep_crowds: bool = False,
    data: PreparedData | None = None,
) -> DetectionCheck:
    """Configuration, KEY VALUE pairs, labelled images, weights and the detector itself.

    train_data, test_data: SPECs; None where the files are not there yet. init: text of tools/train_net.py --init; random where the
    weights are not there yet. arch: of the encoder that will be pre-trained, or converted, and put into this detector.
    keep_crowds: as tools/train_net.py takes it. data: what another initialisation's check read of the same SPECs. Raises as
    tools/train_net.py does.
    """
    from transfer.data.problems import ReadOptions
    from transfer.detect.config import check_supported, resolve_config
    from transfer.detect.doctor import diagnose_config, refuse_errors, sentence
    from transfer.detect.loading import plan_weights, verify_fits
    from transfer.detect.options import RunOptions
    from transfer.detect.request import ask_config, given_keys
    from transfer.detect.run import prepare_run

    read = ReadOptions(keep_crowds=keep_crowds and train_data is not None)
    options = RunOptions(str(config_file), tuple(overrides), train_data, test_data, read=read, init=init)
    if train_data is not None:
        run = prepare_run(options)
        config, data, warnings = run.config, run.data, run.warnings
    else:
        config, asked, _ = ask_config(options)
        check_supported(config, 1)
        verify_fits(plan_weights(config, eval_only=False, resume=False, trust=False), config)
        warnings = ()
        if data is not None:
            config, _ = resolve_config(config, given=given_keys(options), data=data, num_processes=1)
            found = diagnose_config(config, data=data, init=asked)
            refuse_errors(found)
            warnings = tuple(sentence(finding) for finding in found if finding.severity == "warning")
    if arch is not None:
        _check_encoder(config, config_file, arch)
    _build(config, config_file)
    return DetectionCheck(data, warnings)


def _check_encoder(config: CfgNode, config_file: Path, arch: str) -> None:
    """The encoder that pre-training makes must be one that Detectron2 can express, and the one that the detector has."""
    from transfer.conversion.sidecar import detectron2_settings
    from transfer.conversion.targets import target_named
    from transfer.detect.checks import check_settings
    from transfer.detect.inits import Init, family_that_fits

    contract = InputContract()  # of every pre-training of ours
    finding = target_named("detectron2").finding(arch, contract)
    if finding is not None:
        raise ConfigError(
            f"the encoder {arch} cannot be converted for a detector: {finding}; pass encoder.arch=resnet18 or another"
        )
    settings = detectron2_settings(arch, contract)
    try:
        check_settings(config, settings, where=f"the encoder {arch}")
    except ConfigError as error:
        family = family_that_fits(config, Init(arch, "", settings))
        fits = f"\nthe family that fits: {family}" if family else ""
        raise ConfigError(f"{config_file}: {error}{fits}") from None


def _build(config: CfgNode, config_file: Path) -> None:
    from detectron2.modeling import build_model

    config = config.clone()
    config.defrost()
    config.MODEL.DEVICE = "meta"
    try:
        with shapes_only():
            build_model(config)
    except UserError:
        raise
    except Exception as error:  # Detectron2 asserts, looks names up and divides, wherever it meets a value
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigError(f"{config_file}: Detectron2 cannot build this detector ({text})") from None
