"""Playing one game to its end: figures, states that survive a kill, and what is kept of a game that diverges.

In the folder: state.pt while the game runs, history.jsonl always.

Which generator is kept: the last one of a game that ends. Of a game that diverges, the newest one set aside at least
`runtime.log_every_steps` steps before the fault was seen (generators are set aside every so many steps, the untrained one first).
Health decides and not the objective: an estimator that has not learned yet reports 0 nats, so that the lowest objective of an
adversarial game is usually that of its first steps.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pretrain.base.atomic import write_text
from pretrain.base.same_run import require_same
from pretrain.base.signals import StopFlag
from pretrain.config import to_plain
from pretrain.good_views.view_learning.config import GameConfig
from pretrain.good_views.view_learning.data import GameData
from pretrain.good_views.view_learning.game import Diverged, Game
from pretrain.run.checkpoint import Kind, read_state, write_state
from pretrain.views.generator import Generator, inverse_error

STATE, HISTORY = "state.pt", "history.jsonl"
SAVED_GAME = Kind("infomin-transfer/game-state", 2, "saved game")  # 2: labels_per_class draws as a readout does
MEASURED_IMAGES = 512  # over which the kept generator's channels are measured
Row = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What a game left.

    generator: the one kept.
    steps: played.
    kept_step: the number of steps that `generator` has seen.
    diverged: what went wrong, None if nothing.
    mean, std: of the learned channels, over whole images.
    inverse_error: largest error of inverting the generator (float32).
    history: averaged figures every so many steps.
    """

    generator: Generator
    seed: int
    steps: int
    kept_step: int
    diverged: str | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    inverse_error: float
    history: list[Row]

    def final(self, share: float = 0.1) -> Row:
        """Figures averaged over the last `share` of the rows up to kept_step; empty where no row was reached."""
        rows = [row for row in self.history if row["step"] <= self.kept_step]
        rows = rows[-max(1, round(share * len(rows))) :]
        names = rows[-1].keys() - {"step", "epoch"} if rows else ()
        return {name: sum(row[name] for row in rows) / len(rows) for name in sorted(names)}


def play(
    config: GameConfig,
    data: GameData,
    *,
    folder: Path,
    device: torch.device,
    fingerprint: str,
    announce: Callable[[str], None],
) -> Outcome:
    """Play from `folder`'s saved state if there is one. Raises Terminated after a stop signal (state saved); CheckpointError or
    ConfigError for a state that is damaged or of another game."""
    game = Game(
        config,
        num_images=len(data.unlabelled),
        num_classes=len(data.labelled.classes) if data.labelled else 0,
        steps_per_epoch=data.steps_per_epoch,
        seed=data.seed,
        device=device,
    )
    plain = to_plain(config)
    del plain["runtime"]
    about = {"config": plain, "seed": data.seed, "images": fingerprint}
    session = _Session(game, folder, about, total=config.optimizer.epochs * data.steps_per_epoch)
    session.resume(announce)
    reason = None
    bar = tqdm(total=session.total, initial=game.step_count, unit="step", desc=f"game of seed {data.seed}", delay=5)
    with StopFlag() as stop, bar:
        while game.step_count < session.total:
            try:
                session.record(game.step(data.batch(game.step_count)))
            except Diverged as fault:
                reason = f"at step {game.step_count}: {fault}"
                break
            bar.update()
            if stop.is_set:
                session.save()
                raise stop.terminated(
                    f"saved at step {game.step_count} of {session.total} (seed {data.seed}); the same command continues"
                )
    return session.finish(data, reason, announce)


class _Session:
    """A game with its figures, the generators set aside and its file."""

    def __init__(self, game: Game, folder: Path, about: dict[str, Any], *, total: int) -> None:
        self.game, self.folder, self.total = game, folder, total
        self._about = about
        self.history: list[Row] = []
        self._pending: list[dict[str, Tensor]] = []
        self._aside: deque[tuple[int, dict[str, Tensor]]] = deque([self._copy()], maxlen=2)

    def _copy(self) -> tuple[int, dict[str, Tensor]]:
        state = self.game.generator.state_dict()
        return self.game.step_count, {name: value.detach().clone() for name, value in state.items()}

    def record(self, figures: dict[str, Tensor]) -> None:
        """One step is done."""
        runtime, step = self.game.config.runtime, self.game.step_count
        self._pending.append(figures)
        if step % runtime.log_every_steps == 0 or step == self.total:
            rows = {name: torch.stack([entry[name] for entry in self._pending]).mean() for name in figures}
            row = {"step": step, "epoch": step / self.game.steps_per_epoch}
            self.history.append(row | {name: float(value) for name, value in rows.items()})
            self._pending.clear()
            self._aside.append(self._copy())
        if step % (runtime.save_every_steps or self.game.steps_per_epoch) == 0:
            self.save()

    def save(self) -> None:
        """state.pt and history.jsonl, each whole or as it was."""
        state = {
            "about": self._about,
            "game": self.game.state_dict(),
            "history": self.history,
            "pending": self._pending,
            "aside": list(self._aside),
        }
        write_state(self.folder / STATE, state, kind=SAVED_GAME)
        self.write_history()

    def write_history(self) -> None:
        """One JSON object a line."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / HISTORY, "".join(json.dumps(row) + "\n" for row in self.history))

    def resume(self, announce: Callable[[str], None]) -> None:
        """Continue from the saved state, if there is one."""
        path = self.folder / STATE
        if not path.exists():
            return
        state = read_state(path, kind=SAVED_GAME)
        require_same(state["about"], self._about, place=path, what="game")
        self.game.load_state_dict(state["game"])
        self.history, self._pending = list(state["history"]), list(state["pending"])
        self._aside = deque([(step, values) for step, values in state["aside"]], maxlen=2)
        announce(f"resumed from {path} at step {self.game.step_count}")

    def finish(self, data: GameData, reason: str | None, announce: Callable[[str], None]) -> Outcome:
        """Decide what is kept, measure it, drop the state."""
        generator, kept = self.game.generator, self.game.step_count
        if reason is not None:
            kept, values = self._aside[0]
            generator.load_state_dict(values)
            announce(
                f"the game of seed {data.seed} diverged {reason}; kept the generator of step {kept}"
                + (" (untrained)" if kept == 0 else "")
            )
        generator = generator.eval().requires_grad_(False)
        rgb = data.unlabelled.images[:: max(1, len(data.unlabelled) // MEASURED_IMAGES)][:MEASURED_IMAGES]
        values_in = generator.prepare(rgb.to(torch.float32) / 255)
        with torch.no_grad():
            learned = generator(values_in)
        mean, std = (tuple(found.tolist()) for found in (learned.mean((0, 2, 3)), learned.std((0, 2, 3))))
        self.write_history()
        (self.folder / STATE).unlink(missing_ok=True)
        return Outcome(
            generator.cpu(), data.seed, self.game.step_count, kept, reason, mean, std,
            inverse_error(generator, values_in.cpu()), self.history,
        )  # fmt: skip
