"""Any known checkpoint to a backbone with torchvision's names, found by content. Read `load_backbone` first.

In: a weight file, optionally the layout's name and the branch. Out: `Backbone`, whose tensors are exactly those of a known
architecture, or a CheckpointError that says what was found. The file's name plays no part.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.weight_files.torch_files import TorchFile
from transfer.conversion.containers import View, arranged, branch_tensors, file_view, levels
from transfer.conversion.fitting import CIFAR_STEM, COUNTER, fit, listing, reason
from transfer.conversion.layouts import AUTOMATIC, LAYOUTS, OWN_LAYOUT, Branch, Layout
from transfer.conversion.names import NAMINGS, with_affine_statistics
from transfer.conversion.source_contracts import contract_of, refuse_shards
from transfer.conversion.unknown import find_candidates, only_complete
from transfer.conversion.values import as_float32, check_values, type_notes, untrained_finding
from transfer.conversion.weight_files import file_sha256, open_weight_file, weight_file_of

UNKNOWN = "unknown"
UNKNOWN_NOTE = (
    "no known layout: found by its names and shapes alone; RGB with ImageNet's mean and standard deviation, and the stride on "
    "the 3x3, are assumed"
)
READ_OUT = "read it out with `python tools/linear_eval.py --weights` and this file, or pre-train for a detector with encoder.stem=imagenet"


@dataclass(frozen=True)
class Backbone:
    """An encoder out of a file, its bytes compared with the file's checksums, every value finite.

    tensors: torchvision names -> float32, exactly those of `arch`.
    branches: all that the file offers, the default first.
    notes: what was assumed or changed on the way, one sentence each.
    file: knows where the tensors' bytes are.
    """

    arch: str
    tensors: dict[str, Tensor]
    contract: InputContract
    layout: str
    branch: str
    branches: tuple[str, ...]
    path: Path
    notes: tuple[str, ...] = ()
    file: TorchFile = field(default_factory=lambda: TorchFile({}))

    @functools.cached_property
    def untrained(self) -> str | None:
        """That the encoder was never trained, in a sentence; None where its BatchNorms have seen images."""
        return untrained_finding(self.tensors)

    @functools.cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file: a fifth of a second for 350 MB, so not before somebody wants it."""
        return file_sha256(self.path)


@dataclass(frozen=True)
class Recognition:
    """A layout and where in the file its branches are.

    branches: name -> (the view that holds it, branch).
    view: of the first.
    """

    layout: Layout
    branches: dict[str, tuple[View, Branch]]
    view: View


def load_backbone(path: Path, *, source: str = "auto", branch: str | None = None) -> Backbone:
    """Read `path`, recognise its layout (or take it as `source`), take `branch` (default: the layout's first).

    A file of no known layout is searched for the one prefix under which a complete ResNet stands (transfer/conversion/unknown.py).
    A folder is the file in it (`weight_file_of`): of our run the newest checkpoint, of a Hugging Face model its weights. Raises CheckpointError for a file that is damaged or whose
    backbone is not complete; ConfigError for a source or branch that does not exist.
    """
    path = weight_file_of(path)
    return find_backbone(open_weight_file(path), path, source=source, branch=branch)


def find_backbone(file: TorchFile, path: Path, *, source: str = "auto", branch: str | None = None) -> Backbone:
    """`load_backbone` for a file that is open. path: for messages, and for what is beside the file."""
    content = file.content
    layouts = AUTOMATIC if source == "auto" else (_layout_named(source),)
    refuse_shards(content, path)
    view = file_view(content, path)
    found = recognise(view, layouts, path) or (_as_asked(layouts[0], view, path) if source != "auto" else None)
    if found is None:
        return _take_unknown(file, view, path, branch)
    layout, branches = found.layout, tuple(found.branches)
    if layout.refused:
        raise CheckpointError(f"{path} is {layout.name} ({layout.description}): {layout.refused}")
    chosen = branch or branches[0]
    if chosen not in branches:
        raise ConfigError(
            f"--branch {chosen}: {path} (layout {layout.name}) holds {', '.join(branches)}; pass one of these"
        )
    where = f"{path} ({layout.name}, {chosen})"
    arch, tensors = complete_tensors(found, chosen, where=where, on_request=source != "auto", file=file)
    contract, notes = contract_of(layout, arch, found.view.content, path)
    check_values(file, branch_tensors(*found.branches[chosen]).values(), tensors, path)
    return Backbone(
        arch=arch,
        tensors=as_float32(tensors, path),
        contract=contract,
        layout=layout.name,
        branch=chosen,
        branches=branches,
        path=path,
        notes=(*notes, *type_notes(tensors), *filter(None, [untrained_finding(tensors)])),
        file=file,
    )


def matches(layout: Layout, view: View) -> bool:
    """Whether every marker and key of `layout` is in `view`, and none of what must be absent."""
    if not all(_holds(view, key) for key in layout.keys) or any(_holds(view, key) for key in layout.absent_keys):
        return False
    places = arranged(layout, view).places
    return all(re.search(marker, places, re.MULTILINE) for marker in layout.markers) and not any(
        re.search(marker, places, re.MULTILINE) for marker in layout.absent
    )


def _holds(view: View, key: str) -> bool:
    """Whether `key` is at the top of the view, with the text after its "=" where there is one."""
    name, given, text = key.partition("=")
    return name in view.content and (not given or bool(view.content[name] == text))


def recognise(view: View, layouts: tuple[Layout, ...], path: Path) -> Recognition | None:
    """The layout that fits with the fewest envelopes taken off; None when none does.

    Where one layout fits behind several envelopes (weights and their moving average), the branches carry the envelope's name;
    the live weights come first. Raises CheckpointError when several layouts fit.
    """
    for level in levels(view):
        found = [(layout, inner) for inner in level for layout in layouts if matches(layout, inner)]
        if not found:
            continue
        names = list(dict.fromkeys(layout.name for layout, _ in found))
        if len(names) > 1:
            raise CheckpointError(f"{path} fits several layouts ({', '.join(names)}); pass --source and one of them")
        layout, several = found[0][0], len(found) > 1
        branches = {
            f"{inner.label}/{name}" if several and index else name: (arranged(layout, inner), branch)
            for index, (_, inner) in enumerate(found)
            for name, branch in layout.branches.items()
        }
        return Recognition(layout, {k: pair for k, pair in branches.items() if branch_tensors(*pair)}, found[0][1])
    return None


def _as_asked(layout: Layout, view: View, path: Path) -> Recognition:
    """`layout` because the user says so, though its markers are not all there."""
    home = arranged(layout, view)
    branches = {name: (home, b) for name, b in layout.branches.items() if branch_tensors(home, b)}
    if not branches:
        raise CheckpointError(
            f"{path} is not of layout {layout.name}: no tensor under "
            + " or ".join(f"{'/'.join((*b.container, b.prefix))}*" for b in layout.branches.values())
        )
    return Recognition(layout, branches, view)


def _layout_named(source: str) -> Layout:
    known = {layout.name: layout for layout in LAYOUTS}
    if source not in known:
        raise ConfigError(f"--source expected auto or one of {', '.join(known)}, found {source!r}")
    return known[source]


def _take_unknown(file: TorchFile, view: View, path: Path, branch: str | None) -> Backbone:
    candidates = find_candidates(view.containers)
    if not candidates:
        cause = next(filter(None, (reason(tensors) for tensors in view.containers.values())), None)
        held = "; ".join(
            f"{'/'.join(place) or 'top level'}: {len(tensors)} tensors ({', '.join(list(tensors)[:4])}, ...)"
            for place, tensors in list(view.containers.items())[:5]
        )
        raise CheckpointError(
            f"{path} is of no known layout and holds no ResNet. {f'Refused: {cause}. ' if cause else ''}It holds {held}. "
            "Known (--list-sources): " + ", ".join(layout.name for layout in LAYOUTS)
        )
    file.verify(tensor for candidate in candidates if candidate.complete for tensor in candidate.tensors.values())
    chosen = only_complete(candidates, path, branch)
    check_values(file, (), chosen.tensors, path)
    return Backbone(
        arch=chosen.fit.arch,
        tensors=as_float32(chosen.tensors, path),
        contract=InputContract(),
        layout=UNKNOWN,
        branch=chosen.name,
        branches=(chosen.name, *(c.name for c in candidates if c.complete and c is not chosen)),
        path=path,
        notes=(UNKNOWN_NOTE, *type_notes(chosen.tensors), *filter(None, [untrained_finding(chosen.tensors)])),
        file=file,
    )


def complete_tensors(
    found: Recognition, chosen: str, *, where: str, on_request: bool = False, file: TorchFile
) -> tuple[str, dict[str, Tensor]]:
    """(architecture, its tensors): nothing missing, nothing of another shape, nothing left unexplained.

    Raises CheckpointError with what is wrong, and why where the cause is a known one.
    """
    view, branch = found.branches[chosen]
    tensors = backbone_tensors(view, branch, found.layout)
    result = fit(tensors, on_request=on_request)
    if not result.complete:
        why = reason(tensors)
        if why == CIFAR_STEM and found.layout.name == OWN_LAYOUT:
            why = f"{why}; {READ_OUT}"
        raise CheckpointError(f"{where}: {f'{why}; ' if why else ''}{result}")
    if branch.twin is not None:
        file.verify(branch_tensors(view, branch).values())
        _check_twin(tensors, found.layout, view, branch, where)
    return result.arch, {name: tensors[name] for name in result.names}


def backbone_tensors(view: View, branch: Branch, layout: Layout) -> dict[str, Tensor]:
    """A branch's tensors under torchvision's names; what has no such name keeps its own, what may be there is left out."""
    stored = {
        name: tensor
        for name, tensor in branch_tensors(view, branch).items()
        if not (name.endswith(COUNTER) or any(re.fullmatch(pattern, name) for pattern in layout.extra))
    }
    tensors = NAMINGS[layout.naming].read(stored)
    return with_affine_statistics(tensors) if layout.naming == "caffe2" else tensors


def _check_twin(tensors: Mapping[str, Tensor], layout: Layout, view: View, branch: Branch, where: str) -> None:
    """Raises CheckpointError when the copy of the branch under its other prefix is not the same encoder."""
    twin = backbone_tensors(view, Branch(branch.twin or "", branch.container), layout)
    if not twin:
        return
    wrong = [name for name in sorted({*tensors, *twin}) if not _equal(tensors.get(name), twin.get(name))]
    if wrong:
        raise CheckpointError(
            f"{where}: {branch.prefix}* and {branch.twin}* are the same encoder saved twice, and differ"
            f"{listing('tensors', wrong)}; the file is mixed from two"
        )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Equal, NaN included: those are refused later, by their own reason."""
    return a is not None and b is not None and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
