"""The detector configurations that are shipped, and the one that a name on a command line means. Imports no Detectron2.

In: a name as typed. Out: the path of a file, or a ConfigError with what to type: the nearest family, and for a name from when
the initialisation was part of it (`..._infomin.yaml`) the family and its --init.
"""

from __future__ import annotations

import re
from pathlib import Path

from pretrain.base.errors import ConfigError, did_you_mean

CONFIG_ROOT = Path(__file__).resolve().parents[1] / "configs"
PARTS = "base"  # folder of the parts that families are made of
# Initialisations that names of configurations ended with until they became --init.
OLD_SUFFIX = re.compile(r"_(random|supervised|infomin)$")
OLD_WEIGHTS = {"infomin": "infomin=weights/infomin_resnet50.pth", "supervised": "supervised=msra_r50"}


def shipped_runs() -> list[Path]:
    """Every family of transfer/configs, sorted; the parts are not runs."""
    return sorted(path for path in CONFIG_ROOT.rglob("*.yaml") if path.parent.name != PARTS)


def resolve_config_path(name: str) -> Path:
    """`name` as given if it exists, else below transfer/configs or the project. Raises ConfigError naming the nearest family."""
    if not name:
        raise ConfigError("no configuration: give --config-file, for example --config-file voc/R_50_C4_24k.yaml")
    for candidate in (Path(name).expanduser(), CONFIG_ROOT / name, CONFIG_ROOT.parents[1] / name):
        if candidate.is_file():
            return candidate
    shipped = [path.relative_to(CONFIG_ROOT).as_posix() for path in shipped_runs()]
    asked = re.sub(r"^(.*/)?transfer/configs/", "", Path(name).as_posix())
    old = OLD_SUFFIX.search(Path(asked).stem)
    family = f"{asked[: -len(Path(asked).name)]}{OLD_SUFFIX.sub('', Path(asked).stem)}.yaml"
    if old and family in shipped:
        raise ConfigError(
            f"no configuration file {name}: a file no longer says what the detector starts from, --init does. Pass --config-file "
            f"{family} --init {_old_init(old[1], family)}"
        )
    raise ConfigError(
        f"no configuration file {name} here or in {CONFIG_ROOT}{did_you_mean(asked, shipped, cutoff=0.3)}"
    )


def _old_init(suffix: str, family: str) -> str:
    """What the files of that name held."""
    if suffix != "random":
        weights = OLD_WEIGHTS[suffix]
        return weights.replace("50", "18") if family.startswith("demo/") else weights
    return (
        "random"
        if family.startswith("demo/")
        else "random_bgr, whose input is the published rows' (--init random: that of most weights)"
    )
