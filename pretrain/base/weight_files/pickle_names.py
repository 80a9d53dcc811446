"""What a pickle of weights may name, and what it gets instead: one table. Nothing is imported by a file.

In: the module and name that a pickle asks for. Out (`ALLOWED`): a record of pretrain/base/weight_files/pickle_records.py. To allow one more
name, add a row: a plain object becomes `Record`, a mapping `Table`. What is not here is refused.
Sources: files written by torch 0.4 to 2.14, numpy 1 and 2; jax (_src/device_array.py, _src/array.py), haiku
(_src/data_structures.py) and DeepMind's BYOL (byol/byol_experiment.py, byol/utils/optimizers.py) in their repositories.
"""

from __future__ import annotations

from typing import Any

from pretrain.base.weight_files.pickle_records import (
    DTYPES,
    STORAGES,
    ArrayType,
    DefaultTable,
    DType,
    Name,
    Rebuild,
    Record,
    StorageType,
    Table,
    array_from_buffer,
    byte_array,
    empty_array,
    encode_text,
    first,
    jax_array,
    named_tuple,
    of_type,
    path_text,
    scalar,
    sequence,
    tensor,
    tensor_of_dtype,
)

STORAGE_TYPES = {f"{name}Storage": StorageType(dtype) for name, dtype in STORAGES.items()}
MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
ALLOWED: dict[tuple[str, str], Any] = {
    # Python's own.
    ("collections", "OrderedDict"): Table,
    ("collections", "Counter"): Table,
    ("collections", "defaultdict"): DefaultTable,
    ("builtins", "dict"): Table,
    **{("builtins", kind.__name__): sequence(kind) for kind in (list, tuple, set, frozenset)},
    **{("builtins", name): Name(name) for name in ("int", "float", "str", "bool")},  # factories of a defaultdict
    ("builtins", "bytearray"): Rebuild(byte_array),
    ("builtins", "complex"): Rebuild(complex),
    ("_codecs", "encode"): Rebuild(encode_text),
    ("argparse", "Namespace"): Record,
    **{("pathlib", name): Rebuild(path_text) for name in ("PosixPath", "PurePosixPath")},
    # torch.
    ("torch._utils", "_rebuild_tensor"): Rebuild(tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Rebuild(tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Rebuild(tensor_of_dtype),
    ("torch._utils", "_rebuild_parameter"): Rebuild(first),
    ("torch._utils", "_rebuild_parameter_with_state"): Rebuild(first),
    ("torch._tensor", "_rebuild_from_type_v2"): Rebuild(of_type),
    ("torch", "Tensor"): Name("Tensor"),
    ("torch.nn.parameter", "Parameter"): Name("Parameter"),
    ("torch.nn.parameter", "Buffer"): Name("Buffer"),
    ("torch", "Size"): sequence(tuple),
    ("torch", "device"): Rebuild(first),
    **{("torch", name): DType(name) for name in DTYPES},
    **{("torch", name): kind for name, kind in STORAGE_TYPES.items()},
    ("torch.storage", "UntypedStorage"): StorageType("uint8"),
    # numpy and jax.
    ("numpy", "ndarray"): Name("ndarray"),
    ("numpy", "dtype"): ArrayType,
    **{(module, "_reconstruct"): Rebuild(empty_array) for module in MULTIARRAY},
    **{(module, "scalar"): Rebuild(scalar) for module in MULTIARRAY},
    **{(module, "_frombuffer"): Rebuild(array_from_buffer) for module in NUMERIC},
    ("jax._src.device_array", "reconstruct_device_array"): Rebuild(jax_array),
    ("jax._src.array", "_reconstruct_array"): Rebuild(jax_array),
    # DeepMind's BYOL: haiku's mappings, its experiment's and its optimizer's named tuples.
    **{("haiku._src.data_structures", name): Table for name in ("FlatMapping", "FlatMap", "frozendict")},
    ("byol.byol_experiment", "_ByolExperimentState"): named_tuple(
        "online_params", "target_params", "online_state", "target_state", "opt_state"
    ),
    ("byol.utils.optimizers", "ScaleByLarsState"): named_tuple("mu"),
    ("byol.utils.optimizers", "AddWeightDecayState"): named_tuple(),
    ("optax._src.transform", "ScaleState"): named_tuple(),
    ("optax._src.base", "EmptyState"): named_tuple(),
}
