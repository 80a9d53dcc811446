"""What the table of layouts is made of: `Layout` and its `Branch`es, and the patterns that several of them share.

In: nothing. Out: the two records. transfer/conversion/layouts.py holds the table, transfer/conversion/sources.py reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pretrain.base.contract import InputContract

Path = tuple[str, ...]  # keys from the top of the file down to a dictionary of tensors


@dataclass(frozen=True)
class Branch:
    """One copy of the encoder in a file. container: where its tensors are; prefix: what stands before each name.

    twin: a prefix in the same container under which the file holds the same encoder once more; both must be equal.
    state: a second container whose tensors belong to the branch (haiku keeps the statistics apart).
    """

    prefix: str
    container: Path = ()
    twin: str | None = None
    state: Path | None = None


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint.

    markers: regular expressions over "container/key" (containers joined by dots), each of which must match something;
    `absent`: none of which may. Names are compared without wrappers (module., _orig_mod., ...). A layout with one container
    is also found where its tensors lie at the top (state_dict, EMA container or file alike).
    keys, absent_keys: keys at the top of the file, tensors or not; "key=text" asks for that text. branches: by name, the default first.
    extra: what else may stand under a branch's prefix (heads, classifiers). naming: how the backbone's tensors are called.
    contract: how the encoder wants its input, None when the file says it; by_arch: where that depends on the architecture;
    companion: whose JSON files beside the weights say it better. note: what a user must know. refused: why no detector can
    use it, whatever it holds. asked_only: found with --source alone, since its content is that of another layout.
    """

    name: str
    description: str
    source: str
    markers: tuple[str, ...]
    branches: dict[str, Branch]
    absent: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    absent_keys: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    naming: str = "torchvision"
    contract: InputContract | None = field(default_factory=InputContract)
    by_arch: Mapping[str, InputContract] = field(default_factory=dict)
    companion: str | None = None
    note: str | None = None
    refused: str | None = None
    asked_only: bool = False

    @property
    def container(self) -> Path | None:
        """The one container of all branches, None when there are several."""
        places = {branch.container for branch in self.branches.values()} | {
            branch.state for branch in self.branches.values() if branch.state is not None
        }
        return places.pop() if len(places) == 1 else None


STATE_DICT: Path = ("state_dict",)
MODEL: Path = ("model",)
VISSL_TRUNK: Path = ("classy_state_dict", "base_model", "model", "trunk")
# Any tensor of a ResNet, so that a damaged checkpoint is still known for what it is and the missing tensor gets named.
ENCODER = r"(conv1\.|bn1\.|layer[1-4]\.\d)"
CLASSIFIER = (r"fc\.(weight|bias)",)
MLP_HEAD = (
    r"fc\.\d+\.(weight|bias|running_mean|running_var)",
)  # MoCo v2's, MoCo v3's and SimSiam's: fc.0, fc.1 ... fc.7

IMAGENET_RGB = InputContract()
ZERO_TO_ONE = InputContract(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
# Detectron2's default PIXEL_MEAN for the MSRA ResNets, in BGR; a standard deviation of 1 of 255, and the stride in the 1x1.
MSRA_BGR = InputContract(
    channel_order="BGR",
    mean=(103.53 / 255, 116.28 / 255, 123.675 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    stride_in_1x1=True,
)
# FAIR's ResNeXts (detectron2 configs/COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml): BGR with a deviation, v1.5 strides.
FAIR_BGR = replace(MSRA_BGR, std=(57.375 / 255, 57.12 / 255, 58.395 / 255), stride_in_1x1=False)
