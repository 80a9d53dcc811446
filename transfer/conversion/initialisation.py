"""What a measurement started from: its name in tables, and what is known of how the weights were trained.

In: weights as a command takes them. Out: `Initialisation` for the record. The name is what was asked for, else the method that the
sidecar or a checkpoint of our own says, else "supervised" for published weights that are known to be, else "unknown". The names of
the tensors say nothing: those of a supervised ResNet of torchvision, of DINO's and of VICReg's are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.record import Initialisation, NameSource
from pretrain.run.checkpoint import FORMAT, KEYS, pretraining_of
from transfer.conversion.layouts import OWN_LAYOUT
from transfer.conversion.published import SUPERVISED, is_supervised_address, is_supervised_file
from transfer.conversion.sidecar import parse_sidecar, sidecar_path
from transfer.conversion.weight_files import file_sha256, open_weight_file, weight_file_of

RANDOM = "random"
UNKNOWN: Final = "unknown"
# What a sidecar's `source` says of the training. method_source: "asked" (--method), "checkpoint" (our own says it) or "catalog".
FACTS = ("method", "method_source", "image_size", "pretraining")


def initialisation_of(
    weights: str,
    *,
    asked: str | None = None,
    sidecar: Mapping[str, Any] | None = None,
    branch: str | None = None,
    random_seed: int | None = None,
) -> Initialisation:
    """What `weights` are: "" or random:ARCH for random ones, a file, a folder with one (`weight_file_of`), or an address.

    asked: the name that the user gives the row. sidecar: of the file, where the caller has compared the two; None reads the one
    beside it, and believes it if it is of this file. branch: of a checkpoint of our own. random_seed: that draws random weights.
    Raises CheckpointError for a file that is absent or cannot be read.
    """
    if not weights or weights.partition(":")[0] == RANDOM:
        return Initialisation(asked or RANDOM, "asked" if asked else "random", random_seed=random_seed)
    if "://" in weights:
        facts = {"method": SUPERVISED, "method_source": "catalog"} if is_supervised_address(weights) else {}
        return from_facts(facts, weights=weights, asked=asked)
    path = weight_file_of(Path(weights))
    if sidecar is None:
        sha256 = _sha256(path)
        sidecar = own_sidecar(path, sha256)
    else:
        sha256 = sidecar["weights_sha256"]
    if sidecar is not None:
        source = {**sidecar["source"], "method_source": "sidecar"}
        return from_facts(source, weights=weights, sha256=sha256, layout=source.get("layout"), asked=asked)
    content = open_weight_file(path).content
    facts = facts_of(content, sha256=sha256, branch=branch)
    layout = OWN_LAYOUT if is_own_checkpoint(content) else None
    return from_facts(facts, weights=weights, sha256=sha256, layout=layout, asked=asked)


def from_facts(
    facts: Mapping[str, Any],
    *,
    weights: str,
    sha256: str | None = None,
    layout: str | None = None,
    asked: str | None = None,
) -> Initialisation:
    """The initialisation that FACTS describe."""
    method = facts.get("method")
    says: NameSource = facts.get("method_source", "sidecar") if method else UNKNOWN
    return Initialisation(
        asked or method or UNKNOWN,
        "asked" if asked else says,
        weights=weights,
        sha256=sha256,
        layout=layout,
        method=method,
        pretraining=facts.get("pretraining"),
    )


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise CheckpointError(f"no weight file at {path}")
    return file_sha256(path)


def own_sidecar(path: Path, sha256: str) -> Mapping[str, Any] | None:
    """The sidecar beside weights of ours; None where there is none, or one of another file."""
    if not sidecar_path(path).is_file():
        return None
    try:
        found = parse_sidecar(path).to_dict()
    except CheckpointError:
        return None  # whether it must be there is the measurement's question
    return found if found["weights_sha256"] == sha256 else None


def is_own_checkpoint(content: Any) -> bool:
    """Whether the content of a weight file is a checkpoint of tools/pretrain.py."""
    if not isinstance(content, Mapping) or content.get("format") != FORMAT or not set(KEYS) <= set(content):
        return False
    return all(isinstance(content[key], Mapping) for key in ("config", "progress"))


def facts_of(content: Any, *, sha256: str, branch: str | None = None) -> dict[str, Any]:
    """FACTS of a file without a sidecar, as far as they are known: of our own checkpoints, and of torchvision's own files."""
    if not is_own_checkpoint(content):
        return {"method": SUPERVISED, "method_source": "catalog"} if is_supervised_file(sha256) else {}
    found = {
        "method": content["method"],
        "method_source": "checkpoint",
        "image_size": (content["config"].get("views") or {}).get("image_size"),
        "pretraining": pretraining_of(content, sha256=sha256, branch=branch),
    }
    return {name: value for name, value in found.items() if value}


def with_method(facts: Mapping[str, Any], asked: str | None, *, where: object) -> dict[str, Any]:
    """`facts` with the method that the user states. Raises ConfigError where the file itself says another one."""
    known = facts.get("method")
    if not asked or asked == known:
        return dict(facts)
    if known and facts.get("method_source") != "asked":
        raise ConfigError(
            f"--method {asked}: {where} is of method {known}; leave --method out. (For another name of the row in tables pass --init NAME=FILE "
            "to train_net.py, --init-name to linear_eval.py)"
        )
    return {**facts, "method": asked, "method_source": "asked"}


def initialisation_name(weights: str, *, sidecar: Mapping[str, Any] | None = None) -> str:
    """The name alone."""
    return initialisation_of(weights, sidecar=sidecar or None).name
