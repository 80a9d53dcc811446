"""The layouts of checkpoints that can be converted: one entry each, recognised by content.

In: the nested dictionaries of a weight file. Out: nothing; this is data. `transfer/sources.py` reads it.
To add a layout: one `Layout` here, one builder in tests/transfer/test_layouts.py.
Source of the table: peers.md 4.4; infomin.md 1.5 and 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pretrain.contract import InputContract

Path = tuple[str, ...]  # keys from the top of the file down to a dictionary of tensors


@dataclass(frozen=True)
class Branch:
    """One copy of the encoder in a file. container: where its tensors are; prefix: what stands before each name."""

    prefix: str
    container: Path


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint.

    markers: regular expressions over "container/key" (containers joined by dots), each of which must match something;
    `absent`: none of which may. Names are compared without wrappers (module., _orig_mod., ...).
    branches: by name, the default first. extra: keys under a branch's prefix that are no backbone (heads, classifiers).
    naming: how the backbone's tensors are called. contract: how the encoder wants its input, None when the file says it.
    """

    name: str
    description: str
    source: str
    markers: tuple[str, ...]
    branches: dict[str, Branch]
    absent: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    naming: str = "torchvision"
    contract: InputContract | None = field(default_factory=InputContract)


CLASSIFIER = (r"fc\.(weight|bias)",)
MLP_HEAD = (r"fc\.[02]\.(weight|bias)",)

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="infomin-transfer",
        description="this project's pre-training (tools/pretrain.py)",
        source="pretrain/checkpoint.py",
        markers=(r"^model/query\.encoder\.conv1\.weight$", r"^model/memory\."),
        branches={"query": Branch("query.encoder.", ("model",)), "key": Branch("key.encoder.", ("model",))},
        contract=None,
    ),
    Layout(
        name="infomin-transfer-converted",
        description="this project's converted weights (needs the sidecar beside them)",
        source="transfer/convert.py",
        markers=(r"^model/stem\.conv1\.norm\.weight$", r"^model/res5\.0\.shortcut\.weight$"),
        absent=(r"^model/backbone\.",),
        branches={"converted": Branch("", ("model",))},
        naming="detectron2",
        contract=None,
    ),
    Layout(
        name="moco",
        description="MoCo v1 and v2",
        source="facebookresearch/moco main_moco.py, main_lincls.py; peers.md 4.4",
        markers=(r"^state_dict/encoder_q\.conv1\.weight$", r"^state_dict/queue$"),
        branches={
            "query": Branch("encoder_q.", ("state_dict",)),
            "key": Branch("encoder_k.", ("state_dict",)),
        },
        extra=CLASSIFIER + MLP_HEAD,
    ),
    Layout(
        name="pycontrast",
        description="PyContrast: InsDis, MoCo, MoCo v2, PIRL, InfoMin (with or without jigsaw)",
        source="PyContrast learning/contrast_trainer.py; infomin.md 1.5",
        markers=(r"^model/encoder\.conv1\.weight$", r"^model/head\."),
        absent=(r"^model/encoder_k\.", r"^model/projector", r"^model/encoder1\."),
        branches={"query": Branch("encoder.", ("model",)), "key": Branch("encoder.", ("model_ema",))},
    ),
    Layout(
        name="torchvision",
        description="torchvision's ResNet, and flat files with its names (also MoCo's linear-eval, DINO's, VICReg's final)",
        source="torchvision models/resnet.py",
        markers=(r"^/conv1\.weight$", r"^/layer4\.0\.conv1\.weight$"),
        branches={"backbone": Branch("", ())},
        extra=CLASSIFIER,
    ),
)
