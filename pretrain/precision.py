"""Numeric precision of a run: which autocast, which gradient scaler.

In: "auto" | "fp32" | "bf16" | "fp16" and a device. Out: `Precision`, used by the loop and by the readout.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from pretrain.errors import ConfigError


@dataclass(frozen=True)
class Precision:
    """dtype of autocast on `device`, None for plain float32."""

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
        raise ConfigError("runtime.precision=fp16 needs a CUDA device; type runtime.precision=bf16 (or fp32)")
    return Precision(device, {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name])


def _native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # absent in older torch: fp32 then
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
