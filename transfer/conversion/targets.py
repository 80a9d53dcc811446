"""The targets of a conversion: one entry each. `transfer/conversion/convert.py` reads it.

In: nothing; this is data. Out: how a target is written, loaded by its own library for the proof, and what it cannot express.
To add a target: a module export_NAME.py with `write` and `load`, one `Target` here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from transfer.conversion import export_detectron2, export_huggingface, export_onnx, export_timm, export_torchvision
from transfer.conversion.loaded_network import LoadedNetwork
from transfer.conversion.sources import Backbone

# Names that torchvision and timm both give to the same networks.
SHARED_NAMES = frozenset(
    {f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
    | {"resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"}
)
DEFAULT_TARGET = "detectron2"
INSTALL = "python -m pip install -r requirements/export.txt"


@dataclass(frozen=True)
class Target:
    """One kind of output.

    write: a backbone into a path, neither flushed nor published.
    load: what was written, by the target's library.
    usage: one line that loads OUTPUT; {output} and {arch} are filled in.
    suffix: of a file, "" for a folder.
    files: what a folder holds, the weights first.
    libraries: what must be importable.
    carries: fields of the input contract that may differ from the default, mean and std always may: a target whose own
    preprocessing cannot say BGR does not carry channel_order.
    has: whether the target knows an architecture.
    detectron2: whether a detector can start from it.
    """

    name: str
    description: str
    write: Callable[[Path, Backbone], None]
    load: Callable[[Path, Backbone], LoadedNetwork]
    usage: str
    suffix: str = ""
    files: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    carries: frozenset[str] = frozenset({"mean", "std"})
    has: Callable[[str], bool] = ARCHITECTURES.__contains__
    detectron2: bool = False

    def weights_path(self, output: Path) -> Path:
        """The file that holds the weights; its sidecar lies beside it."""
        return output / self.files[0] if self.files else output

    def finding(self, arch: str, contract: InputContract) -> str | None:
        """Why the target cannot express an encoder, None if it can."""
        if not self.has(arch):
            return f"{self.name} has no {arch}"
        default = InputContract()
        for name in sorted(set(default.to_dict()) - self.carries):
            value = getattr(contract, name)
            if name == "stride_in_1x1" and not ARCHITECTURES[arch].bottleneck:
                continue  # there is no 1x1 convolution whose stride could matter
            if value != getattr(default, name):
                return f"{self.name} cannot say that the encoder has {name} = {value}"
        return None

    def require(self) -> None:
        """Raises ConfigError with what to run when a library is missing."""
        for library in self.libraries:
            try:
                importlib.import_module(library)
            except ImportError as error:
                raise ConfigError(
                    f"--to {self.name} needs {library}, which cannot be imported ({error}); run: {INSTALL}"
                ) from None


def _plain(arch: str) -> bool:
    spec = ARCHITECTURES[arch]
    return spec.groups == 1 and spec.width_per_group == 64


def _built_by_detectron2(arch: str) -> bool:
    """Detectron2 asserts that a ResNet-18 or 34 is 64 wide."""
    spec = ARCHITECTURES[arch]
    return spec.bottleneck or spec.base_channels == 64


INPUT_SIDE = frozenset({"mean", "std", "channel_order"})
TARGETS: tuple[Target, ...] = (
    Target(
        name="detectron2",
        description="Detectron2 weights, one file for FPN, C4 and DC5 (the default)",
        write=export_detectron2.write,
        load=export_detectron2.load,
        usage="python tools/train_net.py --config-file FAMILY --init mine={output}",
        suffix=".pth",
        libraries=("detectron2",),
        carries=INPUT_SIDE | {"stride_in_1x1"},
        has=_built_by_detectron2,
        detectron2=True,
    ),
    Target(
        name="pkl",
        description="Detectron2's legacy pickle",
        write=export_detectron2.write_pickle,
        load=export_detectron2.load,
        usage="python tools/train_net.py --config-file FAMILY --init mine={output}",
        suffix=".pkl",
        libraries=("detectron2",),
        carries=INPUT_SIDE | {"stride_in_1x1"},
        has=_built_by_detectron2,
        detectron2=True,
    ),
    Target(
        name="torchvision",
        description="a state dictionary for torchvision.models, without a classifier",
        write=export_torchvision.write,
        load=export_torchvision.load,
        usage='network = torchvision.models.{arch}(); network.fc = torch.nn.Identity(); network.load_state_dict(torch.load("{output}"))',
        suffix=".pth",
        libraries=("torchvision",),
        carries=INPUT_SIDE,
        has=SHARED_NAMES.__contains__,
    ),
    Target(
        name="timm",
        description="safetensors for timm.create_model, mean and std in its metadata",
        write=export_timm.write,
        load=export_timm.load,
        usage='timm.create_model("{arch}", num_classes=0, checkpoint_path="{output}")',
        suffix=".safetensors",
        libraries=("timm",),
        has=SHARED_NAMES.__contains__,
    ),
    Target(
        name="huggingface",
        description="a folder for transformers' ResNetModel, with preprocessor_config.json",
        write=export_huggingface.write,
        load=export_huggingface.load,
        usage='transformers.ResNetModel.from_pretrained("{output}")',
        files=(export_huggingface.WEIGHTS_FILE, "config.json", "preprocessor_config.json"),
        libraries=("transformers",),
        carries=frozenset({"mean", "std", "stride_in_1x1"}),
        has=_plain,
    ),
    Target(
        name="onnx",
        description="an ONNX graph of the backbone: res2 to res5 and pooled, any batch and image size",
        write=export_onnx.write,
        load=export_onnx.load,
        usage='onnxruntime.InferenceSession("{output}").run(None, {{"images": prepared_pixels}})',
        suffix=".onnx",
        libraries=("onnx", "onnxscript", "onnxruntime"),
        carries=INPUT_SIDE | {"stride_in_1x1", "bn_eps"},
    ),
)


def target_named(name: str) -> Target:
    """Raises ConfigError for a name that is not in the table."""
    for target in TARGETS:
        if target.name == name:
            return target
    raise ConfigError(f"--to expected one of {', '.join(target.name for target in TARGETS)}, found {name!r}")


def check_expressible(target: Target, backbone: Backbone) -> None:
    """Raises ConfigError, naming the targets that can, when `target` cannot express the encoder."""
    finding = target.finding(backbone.arch, backbone.contract)
    if finding is not None:
        able = [entry.name for entry in TARGETS if entry.finding(backbone.arch, backbone.contract) is None]
        raise ConfigError(
            f"{backbone.path}: {finding}; pass --to {' or '.join(able)}" if able else f"{backbone.path}: {finding}"
        )
