"""A run that meets a number that is not finite: it stops, skips the batch, or goes back to a checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from ..cells import Carry
from ..errors import NonFiniteError
from ..files import free_path
from ..runs import checkpoint, finding, upkeep
from ..runs.finite import describe_last_finite, last_finite
from ..runs.folder import RunFolder
from .loggers.run_logger import RunLogger
from .report import trust_word
from .session import Progress, Session

MOST_SKIPPED = 10  # batches in a row: of more, the data or the weights are to blame
MOST_ROLLBACKS = 8  # of a run: the learning rate is then 1/256 of what the config says


class Recovery:
    """`train.on_nonfinite`: stop, skip or rollback.

    No step is ever taken with a loss or a gradient that is not finite. What a step makes of the weights is looked at
    where it would be kept: before every evaluation and every checkpoint, and before every step's weights join an
    average. In between the next loss tells, which costs nothing: on a GPU each look would wait for the step to end.
    So nothing that is not finite is saved, averaged or evaluated, and the error names the last finite checkpoint.

    skip: a batch whose loss or gradient is not finite is left out, no step is counted for it, and the next batch begins
    without memory; after MOST_SKIPPED in a row the run stops. Weights that are not finite cannot be skipped.
    rollback: the run goes back to its last checkpoint, as a resume does, and on with half the learning rate. That
    checkpoint is written again with the halving in it, so a resume after it is the same to the bit; `train/rollbacks`
    of metrics.jsonl and `history` of run.json record it. After MOST_ROLLBACKS the run stops. Which checkpoint is the
    last depends on when the run was stopped, and on the clock with checkpoint.minutes.
    """

    def __init__(
        self, run: RunFolder, session: Session, progress: Progress, logger: RunLogger, write: Callable[[str], None]
    ) -> None:
        self.run, self.session, self.progress = run, session, progress
        self.logger, self.write, self.policy = logger, write, session.config.train.on_nonfinite

    def skip(self, reason: str) -> None:
        """Leave out a batch. Raises NonFiniteError if this run does not, or has left out too many."""
        progress = self.progress
        if self.policy != "skip":
            raise NonFiniteError(reason)
        if progress.skipped_in_a_row == MOST_SKIPPED:
            raise NonFiniteError(f"{reason}; {MOST_SKIPPED} batches before it were skipped")
        progress.skipped += 1
        progress.skipped_in_a_row += 1
        # Recorded at the step that it would have been: a resume from a checkpoint before it skips it again.
        step = progress.step + 1
        self.logger.scalars(step, progress.tokens, progress.seconds, {"train/skipped": progress.skipped})
        self.write(f"step {step:>7,}  batch skipped: {reason}")

    def roll_back(self, error: NonFiniteError) -> tuple[Carry, int]:
        """Go back to the last finite checkpoint; returns its carry and its step. Raises the error if this run does not.

        Time does not go back. Of a checkpoint that no step could be taken from, the one before is the last; those that
        are newer than it are put aside.
        """
        run, session, progress = self.run, self.session, self.progress
        if self.policy != "rollback" or progress.rollbacks == MOST_ROLLBACKS:
            raise self._final(error) from None
        start = self._last_finite()
        if start is None:
            raise self._final(error) from None
        failed, before = progress.step, session.learning_rates[0] * 0.5**progress.rollbacks
        kept = {name: getattr(progress, name) for name in ("seconds", "saving_seconds", "plan")}
        rollbacks = progress.rollbacks + 1
        restored, carry = session.restore(start)
        vars(progress).update({**vars(restored), **kept, "rollbacks": rollbacks})
        session.ranks.lead(lambda: self._forget_after(start))
        session.save(run, progress, carry, start.meta.get("rank"))
        self.logger.scalars(progress.step, progress.tokens, progress.seconds, {"train/rollbacks": rollbacks})
        changed = {"step": progress.step, "changed": {"optim.lr": [before, before / 2]}}
        session.ranks.lead(lambda: run.update(history=[*run.info().get("history", []), changed]))
        self.write(
            f"step {failed:>7,}  {error}: back to step {progress.step:,}, with optim.lr={before / 2:g} from here on "
            f"({rollbacks} of at most {MOST_ROLLBACKS} times)"
        )
        return carry, progress.step

    def _last_finite(self) -> checkpoint.Checkpoint | None:
        """The newest finite checkpoint before this step, the one that rank 0 finds."""
        folder, ranks = self.run.checkpoints, self.session.ranks
        found = last_finite(folder, before=self.progress.step) if ranks.leads else None
        step = ranks.first(None if found is None else found.step)
        return found if step is None or found is not None else finding.find(folder, str(step), self.write)

    def _forget_after(self, start: checkpoint.Checkpoint) -> None:
        """Put aside the checkpoints that are newer than this one, and have the logs end with it."""
        run, progress = self.run, self.progress
        for step in [step for step in checkpoint.steps(run.checkpoints) if step > start.step]:
            name = checkpoint.step_name(step)
            (run.checkpoints / name).rename(free_path(run.path / f"{name}.damaged"))
        best = progress.best_step if progress.valid else None
        upkeep.correct_pointers(run.checkpoints, start.step, best, checkpoint.verify, self.write)
        run.forget_after(progress.step, progress.evaluated_at, start.meta.get("metrics"))
        self.logger.back_to(progress.step, progress.tokens)

    def _final(self, error: NonFiniteError) -> NonFiniteError:
        """The error that ends the run, with the checkpoint that can be used, and the remedy."""
        progress, run = self.progress, self.run
        remedy = "Try a lower optim.lr or train.clip_norm in a new run"
        if progress.rollbacks:
            remedy += f"; this one has gone back {progress.rollbacks} times"
        elif self.policy != "rollback" and checkpoint.steps(run.checkpoints):
            word = f"train.on_nonfinite=rollback{trust_word(self.session.config)}"
            remedy += f", or resume it from there at half the rate:\n  seqlm resume {shlex.quote(str(run.path))} {word}"
        rate = self.session.optimizer.param_groups[0]["lr"]
        return NonFiniteError(
            f"{error} at step {progress.step:,} (lr {rate:g}).\n{describe_last_finite(run.checkpoints)} {remedy}"
        )
