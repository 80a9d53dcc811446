"""A readout from request to result file: what is asked, the output directory, what is written.

In: `Request`, an output directory or None. Out: linear_result.json's content; the file is whole or absent, and a finished
equal run is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.base.atomic import lock_folder, remove_temporaries, write_json
from pretrain.base.errors import ConfigError
from pretrain.base.same_run import require_same
from pretrain.config import to_plain
from transfer.readout.config import LinearConfig
from transfer.readout.features import FrozenEncoder, LabelledImages, few_per_class, load_frozen_encoder, load_splits
from transfer.readout.linear import MAX_TOP, encoder_stands_still, measure

RESULT_NAME = "linear_result.json"
STARTED_NAME = "linear_started.json"
RESULT_FORMAT = "infomin-transfer/linear-result"
LOCK_NAME = "run.lock"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    weights: a checkpoint's path, or `random:ARCH`.
    data: folder with train/CLASS/ and val/CLASS/.
    config: of the readout.
    init: name of the initialisation in results.
    branch: of a checkpoint that has several; None = its layout's own choice.
    command: the exact command, for the result.
    skip_unreadable: leave out images that cannot be read.
    """

    weights: str
    data: Path
    config: LinearConfig
    init: str
    branch: str | None
    command: str
    skip_unreadable: bool = False


def run_readout(request: Request, output_dir: Path | None, *, announce: Callable[[str], None]) -> dict[str, Any]:
    """The whole readout; returns the content of linear_result.json, which is written if there is an `output_dir`.

    A finished equal run in `output_dir` is returned as it is. Raises ConfigError/DataError/CheckpointError before the
    encoder runs for anything that cannot work, and ConfigError for a readout that diverges (nothing is written then).
    """
    with _held(output_dir):
        train, val = load_splits(request.data, skip_unreadable=request.skip_unreadable, announce=announce)
        if request.config.images_per_class is not None:
            train = few_per_class(train, request.config.images_per_class, seed=request.config.seed)
        encoder = load_frozen_encoder(request.weights, request.config, branch=request.branch)
        identity = _identity(request, encoder, train, val)
        if output_dir is not None:
            finished = _finished(output_dir, identity)
            if finished is not None:
                announce(f"{output_dir} is finished already; nothing to do")
                return finished
            write_json(output_dir / STARTED_NAME, {"identity": identity, "command": request.command})
        num_classes = len(train.classes)
        announce(f"{len(train)} training and {len(val)} validation images, {num_classes} classes")
        announce(f"readout: {request.config.protocol_name()}")
        if num_classes < MAX_TOP:
            announce(f"{num_classes} classes: what is called top-5 is top-{num_classes} here, 100 % by definition")
        with encoder_stands_still(encoder.module) as hash_of:
            history = measure(encoder, train, val, request.config, announce=announce)
        result = _result(request, encoder, train, val, history, encoder_sha256=hash_of(), identity=identity)
        if output_dir is not None:
            write_json(output_dir / RESULT_NAME, result)
            (output_dir / STARTED_NAME).unlink()
        return result


def _identity(request: Request, encoder: FrozenEncoder, train: LabelledImages, val: LabelledImages) -> dict[str, Any]:
    """What makes two readouts equal. Where the data lies and how many workers read them does not."""
    config = {key: v for key, v in to_plain(request.config).items() if key not in ("num_workers", "device")}
    return {
        "weights": encoder.sha256 or request.weights,
        "branch": request.branch,
        "init": request.init,
        "config": config,
        "data": {"train": train.source.fingerprint(), "val": val.source.fingerprint()},
    }


def _result(
    request: Request,
    encoder: FrozenEncoder,
    train: LabelledImages,
    val: LabelledImages,
    history: list[dict[str, float]],
    *,
    encoder_sha256: str,
    identity: dict[str, Any],
) -> dict[str, Any]:
    config = request.config
    different = config.differences_from_paper()
    return {
        "format": RESULT_FORMAT,
        "version": 1,
        "init": request.init,
        "weights": request.weights,
        "branch": request.branch,
        "arch": encoder.module.arch,
        "seed": config.seed,
        "num_train": len(train),
        "num_val": len(val),
        "classes": list(train.classes),
        "protocol": {
            "name": config.protocol_name(),
            "is_paper": not different,
            "differs": list(different),
            "views": "a new view each epoch"
            if config.cached_views == 0
            else f"{config.cached_views} cached views an image",
            "encoder_precision": encoder.precision.name,
            "top5_k": min(MAX_TOP, len(train.classes)),
        },
        "command": request.command,
        "top1": history[-1]["top1"],
        "top5": history[-1]["top5"],
        "history": history,
        "encoder": {"unchanged": True, "state_sha256": encoder_sha256},
        "identity": identity,
    }


@contextmanager
def _held(output_dir: Path | None) -> Iterator[None]:
    """Create `output_dir` and hold it (a lock that the kernel drops however the process ends); refuse a foreign one."""
    if output_dir is None:
        yield
        return
    created = not output_dir.exists()
    with lock_folder(output_dir, LOCK_NAME):
        # Hidden files are what a killed write left behind, not somebody's work.
        names = {entry.name for entry in output_dir.iterdir() if not entry.name.startswith(".")}
        foreign = sorted(names - {LOCK_NAME, RESULT_NAME, STARTED_NAME})
        if foreign:
            (output_dir / LOCK_NAME).unlink()
            raise ConfigError(
                f"the output directory {output_dir} holds other files ({', '.join(foreign[:3])}); name an empty one"
            )
        remove_temporaries(output_dir)
        try:
            yield
        except BaseException:
            if created and {entry.name for entry in output_dir.iterdir()} == {LOCK_NAME}:  # refused before it began
                (output_dir / LOCK_NAME).unlink()
                output_dir.rmdir()
            raise


def _finished(output_dir: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The result of an equal finished run. Raises ConfigError for a finished run that is another one."""
    path = output_dir / RESULT_NAME
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        there = dict(result["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is not a readout's result; name another output directory") from None
    require_same(there, identity, place=output_dir, what="finished readout")
    return dict(result)
