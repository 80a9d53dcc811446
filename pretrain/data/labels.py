"""Classes of a source's images: the folder that each lies in. Only supervised pre-training looks at them."""

from __future__ import annotations

from pathlib import PurePosixPath

import torch
from torch import Tensor

from pretrain.base.errors import DataError
from pretrain.data.index import Source


def folder_labels(source: Source) -> tuple[Tensor, tuple[str, ...]]:
    """(N,) int64, and the names of the classes, sorted. Raises DataError for fewer than two classes.

    A class is the folder that holds the image: CLASS/image.jpg, of a list or an archive too. In shards it is the folder inside the
    shard, whose own name says nothing of the image.
    """
    shards = 1 if source.shard_ends is not None else 0
    parents = (PurePosixPath(source.name(index)).parent.parts[shards:] for index in range(len(source)))
    folders = ["/".join(parts) or "." for parts in parents]
    names = tuple(sorted(set(folders)))
    if len(names) < 2:
        raise DataError(
            f"{source.root}: supervised pre-training expects class folders, CLASS/image.jpg, of two classes or more; all "
            f"{len(source)} images lie in {'the folder itself' if names == ('.',) else names[0]}. For images without labels pass another --method"
        )
    number = {name: position for position, name in enumerate(names)}
    return torch.tensor([number[folder] for folder in folders]), names
