"""A checkpoint to weights for a target library, published only once they are proven. Read `convert` first.

In: a checkpoint of a known layout. Out: OUTPUT for the target (the default: Detectron2's .pth), its sidecar and the record of the
conversion, or none of them. A target that is a folder has both inside.

The record is `running` beside the unpublished weights from their first byte on, under their hidden name; of a conversion that
fails nothing is left, and what an earlier one had left stays.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pretrain.base.atomic import sync_directory, sync_file, write_json
from pretrain.base.errors import CheckpointError, ConfigError, DataError
from pretrain.base.record import RECORD, OpenRecord, Record, read_record, record_beside
from transfer.conversion.initialisation import FACTS, facts_of, from_facts, own_sidecar, with_method
from transfer.conversion.parity import Proof, prove
from transfer.conversion.sidecar import Sidecar, detectron2_settings, parse_sidecar, sidecar_path
from transfer.conversion.sources import UNKNOWN, Backbone, find_backbone, load_backbone
from transfer.conversion.targets import DEFAULT_TARGET, TARGETS, Target, check_expressible, target_named
from transfer.conversion.weight_files import file_sha256, weight_file_of


def convert(
    source: Path,
    output: Path,
    *,
    to: str = DEFAULT_TARGET,
    layout: str = "auto",
    branch: str | None = None,
    method: str | None = None,
    overwrite: bool = False,
    untrained: bool = False,
    command: str = "",
) -> Sidecar:
    """Convert `source` to `output` for the target `to`, with sidecar and record. All are published after the proof, or nothing is.

    source: a weight file; the folder of a run of tools/pretrain.py: its newest checkpoint; of a Hugging Face model: its weights.
    method: that the encoder was trained with, as the user states it; None = what the file says, if it does.
    overwrite: replace an OUTPUT that exists; it stays as it is until the new one is proven.
    untrained: convert an encoder that was never trained, too.
    command: the exact command, for the record.

    Raises CheckpointError (unknown layout, incomplete backbone, failed proof) or ConfigError (paths, target, source, branch, method).
    """
    target = target_named(to)
    given, source = source, weight_file_of(source)
    check_output(source, output, target=target, overwrite=overwrite)
    target.require()
    backbone = load_backbone(source, source=layout, branch=branch)
    if backbone.untrained and not untrained:
        raise CheckpointError(
            f"{source} ({backbone.layout}, {backbone.branch}): {backbone.untrained}. A detector that starts from it starts from "
            "random weights; pass --untrained to convert it all the same"
        )
    check_expressible(target, backbone)
    facts = with_method(_facts(backbone), method, where=source)
    asked = {"input": given, "output": output, "to": to, "source": layout, "branch": branch, "method": method}
    with _unpublished(output, target) as draft:
        with OpenRecord(_draft_record(draft, target), _record(backbone, facts, target, asked, command)) as record:
            target.write(draft, backbone)
            proof = prove(backbone, target.load(draft, backbone), other_branch=_other_branch(backbone))
            sidecar = _sidecar(source, target.weights_path(draft), backbone, facts, proof, target)
            record.finish(_figures(proof), details={**record.record.details, "weights_sha256": sidecar.weights_sha256})
        _publish(draft, output, target, sidecar)
    return sidecar


def _sidecar(
    source: Path, weights: Path, backbone: Backbone, facts: dict[str, Any], proof: Proof, target: Target
) -> Sidecar:
    """What is to stand beside `weights`, converted from `source`."""
    return Sidecar(
        weights_sha256=file_sha256(weights),
        arch=backbone.arch,
        source={
            "name": source.name,
            "sha256": backbone.sha256,
            "layout": backbone.layout,
            "branch": backbone.branch,
            "branches": list(backbone.branches),
            "notes": list(backbone.notes),
            **facts,
        },
        contract=backbone.contract,
        detectron2=detectron2_settings(backbone.arch, backbone.contract),
        proof=proof.to_dict(),
        target=target.name,
    )


def _publish(draft: Path, output: Path, target: Target, sidecar: Sidecar) -> None:
    """The draft, its record and its sidecar get their final names."""
    if target.files:
        _draft_record(draft, target).replace(draft / RECORD)
        write_json(sidecar_path(target.weights_path(draft)), sidecar.to_dict())
        _publish_folder(draft, output)
        return
    sync_file(draft)
    write_json(sidecar_path(draft), sidecar.to_dict())
    # The sidecar last: a crash between these leaves weights without one, or with one of another hash: refused later.
    draft.replace(output)
    _draft_record(draft, target).replace(record_beside(output))
    sidecar_path(draft).replace(sidecar_path(output))


def _facts(backbone: Backbone) -> dict[str, Any]:
    """How the encoder was trained, as far as its file, or the sidecar beside converted weights, says it."""
    sidecar = own_sidecar(backbone.path, backbone.sha256)
    if sidecar is None:
        return facts_of(backbone.file.content, sha256=backbone.sha256, branch=backbone.branch)
    return {name: sidecar["source"][name] for name in FACTS if name in sidecar["source"]}


def _record(backbone: Backbone, facts: dict[str, Any], target: Target, asked: dict[str, Any], command: str) -> Record:
    """The record as the conversion begins. Its experiment is the target and the proof; the subject are the weights."""
    return Record(
        kind="conversion",
        experiment={"config": {"to": target.name}},
        config={name: value if value is None else str(value) for name, value in asked.items()},
        seeds={"run": None, "pretraining": (facts.get("pretraining") or {}).get("seed")},
        commands=(command,) if command else (),
        initialisation=from_facts(facts, weights=str(asked["input"]), sha256=backbone.sha256, layout=backbone.layout),
        details={"arch": backbone.arch, "branch": backbone.branch, "notes": list(backbone.notes)},
    )


def _figures(proof: Proof) -> dict[str, float | None]:
    differences = {f"difference/{stage}": value for stage, value in proof.relative_difference.items()}
    return {"tensors_placed": proof.tensors_placed, "tensors_expected": proof.tensors_expected, **differences}


def check_output(source: Path, output: Path, *, target: Target, overwrite: bool) -> None:
    """Raises ConfigError for an output that its library would misread, that is the input, or that cannot be written."""
    _check_suffix(output, target)
    if output.exists() and source.exists() and source.samefile(output):
        raise ConfigError(f"INPUT and OUTPUT are the same file, {output}")
    if target.files:
        _check_folder(source, output, target)
    elif output.is_dir():
        raise ConfigError(f"OUTPUT {output} is a folder; expected a file")
    else:
        if sidecar_path(output).exists():
            _check_sidecar_is_free(output, overwrite=overwrite)
        _check_record_is_free(record_beside(output), overwrite=overwrite)
    if output.exists() and not overwrite:
        raise ConfigError(f"OUTPUT {output} exists; pass another path, or --overwrite to replace it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"OUTPUT {output} cannot be written: {error.strerror or error}") from None
    if not os.access(output.parent, os.W_OK):
        raise ConfigError(f"OUTPUT {output} cannot be written: no permission in {output.parent}")


def _check_suffix(output: Path, target: Target) -> None:
    others = [entry.name for entry in TARGETS if entry.suffix and entry.suffix == output.suffix]
    meant = f", or --to {' or '.join(others)}" if others else ""
    if target.suffix and output.suffix != target.suffix:
        raise ConfigError(
            f"OUTPUT expected a path that ends in {target.suffix} for {target.name} (readers choose by that), found {output}; "
            f"pass {output.with_suffix(target.suffix)}{meant}"
        )
    if target.files and others:
        raise ConfigError(
            f"OUTPUT expected the name of a folder for {target.name}, found {output}; pass {output.with_suffix('')}{meant}"
        )


def _check_folder(source: Path, output: Path, target: Target) -> None:
    """A folder is replaced only when nothing but an earlier conversion is in it."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"OUTPUT {output} is a file; expected a folder for {target.name}")
    ours = {*target.files, sidecar_path(target.weights_path(output)).name, RECORD}
    strange = sorted(path.name for path in output.iterdir() if path.name not in ours) if output.is_dir() else []
    if strange:
        raise ConfigError(f"OUTPUT {output} holds other files ({', '.join(strange[:4])}); pass a folder of its own")
    if output.is_dir() and source.exists() and output.samefile(source.parent):
        raise ConfigError(f"INPUT {source} is in the folder OUTPUT, which would be replaced; pass another OUTPUT")


def _check_sidecar_is_free(output: Path, *, overwrite: bool) -> None:
    """OUTPUT.json is this output's own, or nobody's."""
    path = sidecar_path(output)
    try:
        suffix = target_named(parse_sidecar(output).target).suffix
    except (CheckpointError, ConfigError):
        if overwrite or output.exists():  # a damaged sidecar of this very output
            return
        raise ConfigError(
            f"{path} exists and is no sidecar; pass another OUTPUT, or --overwrite to replace it"
        ) from None
    owner = output.with_suffix(suffix)
    if owner != output and owner.exists():
        raise ConfigError(f"{path} is the sidecar of {owner}; pass an OUTPUT of another name")


def _check_record_is_free(path: Path, *, overwrite: bool) -> None:
    """STEM.record.json is a conversion's, or nobody's: a sidecar of weights called STEM.record.pth is somebody's."""
    if overwrite or not path.exists():
        return
    try:
        if read_record(path).kind == "conversion":
            return
    except DataError:
        pass
    raise ConfigError(
        f"{path} exists and is no record of a conversion; pass another OUTPUT, or --overwrite to replace it"
    )


@contextmanager
def _unpublished(output: Path, target: Target) -> Iterator[Path]:
    """A hidden path beside `output`; it, its sidecar and its record are gone at the end unless they were renamed."""
    draft = output.with_name(f".{output.stem}.{os.getpid()}{target.suffix or '.folder'}")
    try:
        yield draft
        sync_directory(output.parent)
    except OSError as error:
        raise CheckpointError(f"could not write {output}: {error.strerror or error}") from error
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        for path in (draft, _draft_record(draft, target), sidecar_path(draft)):
            path.unlink(missing_ok=True)


def _draft_record(draft: Path, target: Target) -> Path:
    return draft.with_name(f"{draft.name.removesuffix(target.suffix)}.{RECORD}")


def _publish_folder(draft: Path, output: Path) -> None:
    """Rename the proven folder into place. One that was there steps aside first and comes back if that fails."""
    sync_directory(draft)
    aside = draft.with_name(f"{draft.name}.old")
    if not output.exists():
        draft.rename(output)
        return
    try:
        output.rename(aside)
        draft.rename(output)
    except BaseException:
        if aside.exists() and not output.exists():
            aside.rename(output)
        raise
    shutil.rmtree(aside)


def _other_branch(backbone: Backbone) -> dict[str, torch.Tensor] | None:
    """Tensors of the file's other copy of the encoder, where it holds a second complete one."""
    others = [name for name in backbone.branches if name != backbone.branch]
    if not others:
        return None
    try:
        source = "auto" if backbone.layout == UNKNOWN else backbone.layout
        return find_backbone(backbone.file, backbone.path, source=source, branch=others[0]).tensors
    except CheckpointError:
        return None  # the other copy is incomplete or damaged; it is not the one that was asked for
