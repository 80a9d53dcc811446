"""A checkpoint to weights that Detectron2 loads, published only once they are proven. Read `convert` first.

In: a checkpoint of a known layout. Out: OUTPUT.pth for Detectron2's own checkpointer and the sidecar OUTPUT.json, or neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pretrain.atomic import sync_directory, write_json
from pretrain.errors import CheckpointError, ConfigError
from transfer.names import to_detectron2
from transfer.parity import prove
from transfer.sidecar import Sidecar, detectron2_settings, sidecar_path
from transfer.sources import Backbone, load_backbone
from transfer.weight_files import file_sha256

AUTHOR = "InfoMin Transfer"


def convert(
    source: Path, output: Path, *, layout: str = "auto", branch: str | None = None, overwrite: bool = False
) -> Sidecar:
    """Convert `source` to `output` (.pth) with its sidecar. Both are published after the proof, or nothing is.

    overwrite: replace an OUTPUT that exists; it stays as it is until the new one is proven.

    Raises CheckpointError (unknown layout, incomplete backbone, failed proof) or ConfigError (paths, source, branch).
    """
    check_output(source, output, overwrite=overwrite)
    backbone = load_backbone(source, source=layout, branch=branch)
    settings = detectron2_settings(backbone.arch, backbone.contract)
    with _unpublished(output) as draft:
        _write(draft, backbone)
        proof = prove(backbone, draft, settings, other_branch=_other_branch(backbone))
        sidecar = Sidecar(
            weights_sha256=file_sha256(draft),
            arch=backbone.arch,
            source={
                "name": source.name,
                "sha256": backbone.sha256,
                "layout": backbone.layout,
                "branch": backbone.branch,
                "branches": list(backbone.branches),
                "notes": list(backbone.notes),
            },
            contract=backbone.contract,
            detectron2=settings,
            proof=proof.to_dict(),
        )
        draft.replace(output)
        # A crash between these two leaves weights whose sidecar is absent or names another hash: both are refused later.
        write_json(sidecar_path(output), sidecar.to_dict())
    return sidecar


def check_output(source: Path, output: Path, *, overwrite: bool) -> None:
    """Raises ConfigError for an output that Detectron2 would misread, that is the input, or that cannot be written."""
    if output.suffix != ".pth":
        raise ConfigError(
            f"OUTPUT expected a path that ends in .pth (Detectron2 chooses its reader by that), found {output}; "
            f"type {output.with_suffix('.pth')}"
        )
    if output.exists() and source.exists() and source.samefile(output):
        raise ConfigError(f"INPUT and OUTPUT are the same file, {output}")
    if output.is_dir():
        raise ConfigError(f"OUTPUT {output} is a folder; expected a file")
    if output.exists() and not overwrite:
        raise ConfigError(f"OUTPUT {output} exists; type another path, or --overwrite to replace it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"OUTPUT {output} cannot be written: {error.strerror or error}") from None
    if not os.access(output.parent, os.W_OK):
        raise ConfigError(f"OUTPUT {output} cannot be written: no permission in {output.parent}")


@contextmanager
def _unpublished(output: Path) -> Iterator[Path]:
    """A hidden path beside `output`, gone at the end unless it was renamed."""
    draft = output.with_name(f".{output.stem}.{os.getpid()}.pth")
    try:
        yield draft
        sync_directory(output.parent)
    except OSError as error:
        raise CheckpointError(f"could not write {output}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _write(path: Path, backbone: Backbone) -> None:
    content = {
        "model": to_detectron2(backbone.tensors),
        "matching_heuristics": True,  # lets Detectron2 find backbone.bottom_up.* (FPN) and roi_heads.res5.* (C4)
        "__author__": AUTHOR,
        "arch": backbone.arch,
    }
    try:
        with open(path, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # torch reports a full disk so
        raise CheckpointError(f"could not write {path}: {error}") from error


def _other_branch(backbone: Backbone) -> dict[str, torch.Tensor] | None:
    """Tensors of the file's other copy of the encoder, where it holds a second complete one."""
    others = [name for name in backbone.branches if name != backbone.branch]
    if not others:
        return None
    try:
        return load_backbone(backbone.path, source=backbone.layout, branch=others[0]).tensors
    except CheckpointError:
        return None  # the other copy is incomplete or damaged; it is not the one that was asked for
