"""What a weight file holds, for the eye: its dictionaries, its layout, which copies of an encoder are complete, why others are not.

In: a weight file. Out: lines of text. Nothing is converted; a file that cannot be used is described all the same.
"""

from __future__ import annotations

from pathlib import Path

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import TorchFile
from transfer.conversion.containers import View, file_view
from transfer.conversion.layouts import AUTOMATIC
from transfer.conversion.sidecar import detectron2_settings
from transfer.conversion.sources import Recognition, find_backbone, recognise
from transfer.conversion.unknown import find_candidates
from transfer.conversion.weight_files import file_sha256, open_weight_file, weight_file_of

NAMES_SHOWN = 3


def inspect_file(path: Path) -> list[str]:
    """Lines about `path`. Raises CheckpointError only for a file that cannot be read or holds no tensors."""
    path = weight_file_of(path)
    file = open_weight_file(path, verify_all=True)
    view = file_view(file.content, path)
    lines = [_line("file", f"{path.name}, {path.stat().st_size:,} bytes, sha256 {file_sha256(path)}")]
    lines += [
        _line("holds", f"{'/'.join(place) or 'top level'}: {len(tensors)} tensors ({_some(list(tensors))})")
        for place, tensors in view.containers.items()
    ]
    try:
        found = recognise(view, AUTOMATIC, path)
    except CheckpointError as error:
        return [*lines, _line("layout", str(error)), *_prefixes(view)]
    if found is None:
        return [*lines, _line("layout", "none that is known"), *_prefixes(view), *_verdict(file, path, None)]
    lines.append(_line("layout", f"{found.layout.name}: {found.layout.description}"))
    lines.append(_line("read in", found.layout.source))
    return [*lines, *_prefixes(view), *_branches(found, file, path)]


def _line(title: str, text: str) -> str:
    return f"{title:<12}{text}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _prefixes(view: View) -> list[str]:
    """One line for each place where something like a ResNet stands under torchvision's, Sequential or transformers names."""
    lines = []
    for candidate in find_candidates(view.containers):
        if candidate.complete:
            beside = f"; beside it {_some(list(candidate.ignored))}" if candidate.ignored else ""
            state = (
                f"complete, {candidate.fit.expected} tensors of {candidate.fit.arch} ({candidate.naming} names){beside}"
            )
        else:
            state = f"not complete: {candidate.why}"
        lines.append(_line("prefix", f"{candidate.name}: {state}"))
    return lines


def _branches(found: Recognition, file: TorchFile, path: Path) -> list[str]:
    lines = []
    for index, branch in enumerate(found.branches):
        lines.append(_line("branch", f"{branch}{' (default)' if index == 0 else f', --branch {branch}'}"))
        lines += _verdict(file, path, branch)
    return lines


def _verdict(file: TorchFile, path: Path, branch: str | None) -> list[str]:
    """What a conversion would do: the encoder with its input, or the refusal."""
    try:
        backbone = find_backbone(file, path, branch=branch)
    except CheckpointError as error:
        return [_line("refused", str(error))]
    contract = backbone.contract
    settings = detectron2_settings(backbone.arch, contract)
    return [
        _line("encoder", f"{backbone.arch}, {len(backbone.tensors)} of {len(backbone.tensors)} tensors, all finite"),
        _line("input", f"{contract.channel_order}, mean {contract.mean}, std {contract.std} of pixels in [0, 1]"),
        *(_line("note", note) for note in backbone.notes),
        _line("detectron2", " ".join(f'{key} "{value}"' for key, value in settings.items())),
    ]
