"""How far a long step is: a bar on a terminal, else a line now and then.

In: amounts. Out: tqdm's bar on stderr; where that is no terminal, what `announce` does with a line every INTERVAL_SECONDS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from tqdm import tqdm

INTERVAL_SECONDS = 30.0
Announce = Callable[[str], None]


class Progress:
    """One step. unit: "B" for bytes. Call it with what is done, and what there is in all where that is known."""

    def __init__(self, title: str, unit: Literal["B", "file"], announce: Announce) -> None:
        self.title, self.unit, self.announce = title, unit, announce
        self.bar = tqdm(desc=title, unit=unit, unit_scale=unit == "B", disable=None, leave=False)
        self.last, self.before = time.monotonic(), 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self.bar.close()
        return False

    def __call__(self, done: int, total: int | None = None) -> None:
        if not self.bar.disable:
            self.bar.total = total
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if now - self.last < INTERVAL_SECONDS:
            return
        rate = (done - self.before) / (now - self.last)
        self.last, self.before = now, done
        share = f" of {self._amount(total)} ({done / total:.0%})" if total else ""
        self.announce(f"{self.title}: {self._amount(done)}{share}, {self._amount(rate)}/s")

    def _amount(self, number: float) -> str:
        return bytes_text(number) if self.unit == "B" else f"{number:,.0f} files"


def bytes_text(number: float) -> str:
    """1_999_639_040 -> "2.0 GB" (thousands, as disks and downloads are named)."""
    for unit in ("B", "kB", "MB"):
        if abs(number) < 999.5:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
