"""Numeric precision of a run: which autocast, which gradient scaler."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from pretrain.base.errors import ConfigError

LARGEST_1X1_RES4 = 16  # res4 has stride 16


@dataclass(frozen=True)
class Precision:
    """How a forward is computed.

    device: where.
    dtype: of autocast; None: plain float32.
    """

    device: torch.device
    dtype: torch.dtype | None

    @property
    def name(self) -> str:
        """One of fp32, bf16, fp16."""
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Context in which a forward runs."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaler: active in fp16 only."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def choose_precision(name: str, device: torch.device) -> Precision:
    """ "auto" is bf16 where the device computes it natively (CPU: AVX-512 BF16 or AMX), else fp32. fp16 needs CUDA."""
    if name == "auto":
        name = "bf16" if _native_bf16(device) else "fp32"
    if name == "fp16" and device.type != "cuda":
        raise ConfigError("runtime.precision=fp16 needs a CUDA device; pass runtime.precision=bf16 (or fp32)")
    return Precision(device, {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name])


def use_channels_last(asked: bool | None, precision: Precision) -> bool:
    """The memory format of a run: as asked for, else channels last but for float32 on the CPU.

    Measured there: ResNet-18 at 64 px takes 1.04 s a step in NCHW and 1.16 s in channels last in float32, 0.79 s and 0.68 s in
    bf16.
    """
    return (precision.device.type != "cpu" or precision.dtype is not None) if asked is None else asked


def check_patch_size(precision: Precision, size: int) -> None:
    """Refuse patches of `size` pixels that a kernel of this precision cannot train on.

    torch's CPU bf16 backward of a 3x3 stride-2 convolution on a 1x1 map leaves 8 of the 9 taps of the weight gradient
    uninitialised (measured on torch 2.14.1, AVX-512 BF16: garbage or NaN in 19 of 20 trials, float32 in none of 20). A
    ResNet's last stage sees a 1x1 map for inputs of up to 16 px; images have 32 px or more.
    """
    if precision.device.type == "cpu" and precision.dtype is torch.bfloat16 and size <= LARGEST_1X1_RES4:
        raise ConfigError(
            f"views.patch_size={size} with bf16 on the CPU: expected at least {LARGEST_1X1_RES4 + 1}, since torch's kernel "
            f"returns wrong gradients below; pass views.patch_size={LARGEST_1X1_RES4 + 4} or runtime.precision=fp32"
        )


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older torch: fp32 then
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
