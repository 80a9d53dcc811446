"""What is kept between runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pretrain.data import cache
from pretrain.data.cache import keep_arrays, kept_arrays


def test_threads_do_not_read_headers_at_once(tmp_path, monkeypatch):
    """Python 3.11 has one depth for all who parse: two threads in numpy's header reader can end in a SystemError."""
    monkeypatch.setenv("INFOMIN_CACHE", str(tmp_path))
    for number in range(4):
        assert keep_arrays("index", str(number), ends=np.arange(number + 1))
    readers = [0, 0]  # now, at most
    load = np.load

    def counting(*arguments, **options):
        readers[0] += 1
        readers[1] = max(readers)
        try:
            for _ in range(20):
                load(arguments[0], **options)["ends"]
                arguments[0].seek(0)
            return load(*arguments, **options)
        finally:
            readers[0] -= 1

    monkeypatch.setattr(cache.np, "load", counting)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: kept_arrays("index", str(number % 4)), range(64)))
    assert [len(arrays["ends"]) for arrays in found] == [number % 4 + 1 for number in range(64)]
    assert readers[1] == 1
