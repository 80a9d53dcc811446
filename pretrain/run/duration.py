"""How long a run will take, from what was measured of a few of its steps and of its loader.

In: seconds of a step and of a batch's views, each measured while the other was idle. Out: seconds of the run, in words.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Of one process.

    step: seconds of an optimiser step on a batch that is there. input: seconds until the next batch's views are there, with
        nothing else to do.
    workers: loader processes, 0 for none. shares_cores: whether the step is computed on the CPU too. cores: of this machine.
    threads: that a step on the CPU uses.
    """

    step: float
    input: float
    workers: int
    shares_cores: bool
    cores: int
    threads: int

    @property
    def seconds(self) -> float:
        """Of a step of the run.

        Without workers the views are made between the steps. With them the slower one counts; and on a CPU both need cores: no
        step can take less than their work together takes all of them.
        """
        if self.workers == 0:
            return self.step + self.input
        longest = max(self.step, self.input)
        if not self.shares_cores:
            return longest
        work = self.step * min(self.threads, self.cores) + self.input * min(self.workers, self.cores)
        return max(longest, work / self.cores)

    @property
    def limit(self) -> str:
        """What a faster run would have to make faster."""
        if self.workers == 0:
            return "the views are made between the steps: data.num_workers=0"
        if self.seconds > 1.05 * max(self.step, self.input):
            return f"step and input share {self.cores} cores"
        return "limited by the input: more data.num_workers" if self.input > self.step else "limited by the step"


def in_words(seconds: float) -> str:
    """ "40 s", "12 min", "3 h 20 min", "5 d 3 h"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours + (minutes >= 30), 24)
    return f"{days} d {hours} h"
