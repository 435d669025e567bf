"""The training loop, for every task, top to bottom."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.profiler import record_function

from ..cells import Carry
from ..errors import NonFiniteError, Stopped
from ..optim.schedules import Rank
from ..runs.finite import non_finite
from ..runs.folder import RunFolder
from ..tasks.figures import Heatmap
from ..terminal import status
from .agreement import Agreement
from .console import Console
from .divergence import Divergence
from .joining import resume_command
from .loggers.run_logger import RunLogger
from .parameters import log_parameters
from .recovery import Recovery
from .report import trust_word
from .session import Progress, Session
from .shares import check_same_weights
from .signals import StopSignal


class Loop:
    """Trains a session until a limit is reached: evaluate if due, save if due, one step, log if due."""

    def __init__(
        self,
        run: RunFolder,
        session: Session,
        progress: Progress,
        logger: RunLogger,
        console: Console,
        stop: StopSignal,
    ) -> None:
        self.run, self.session, self.progress = run, session, progress
        self.logger, self.console, self.stop = logger, console, stop
        self.gradient = session.gradient(console.write)
        self.recovery = Recovery(run, session, progress, logger, console.write)
        self.agreed = Agreement(session, progress, stop)
        self._warned, self.best_diverged = False, False
        self._begin()

    def _begin(self) -> None:
        """Take up the records of the run where its progress stands."""
        # Since the last log record: seconds spent in steps, and the tokens that had been read by then.
        self._busy, self._logged_tokens = 0.0, self.progress.tokens
        self.divergence = Divergence()
        for record in self.run.records():
            if isinstance(loss := record.get("train/loss"), float):
                self.divergence.observe(loss, warming_up=True)

    def fit(self, carry: Carry, saved_at: int | None) -> None:
        """Train from `carry` on; `saved_at` is the step of the checkpoint that it comes from, if any.

        Raises Stopped after a signal, NonFiniteError if that ends the run (`train.on_nonfinite`).
        """
        check_same_weights(self.session.model, self.session.ranks)
        self.console.start(self.progress.step, self.session.steps_planned)
        self.session.model.train()
        while True:
            try:
                return self._fit(carry, saved_at)
            except NonFiniteError as error:
                carry, saved_at = self.recovery.roll_back(error)
                self.console.back_to(self.progress.step)
                self._begin()

    def _fit(self, carry: Carry, saved_at: int | None) -> None:
        session, progress, agreed = self.session, self.progress, self.agreed
        while True:
            agreed.update()
            ended, rank = session.ended(progress), None
            if progress.step > progress.evaluated_at and not agreed.signal and (ended or self._evaluation_is_due()):
                rank = self._evaluate()
                agreed.update()
                ended = ended or session.ended(progress)
            due = ended or agreed.signal or self._checkpoint_is_due()
            # Again at a step that is saved already if it has been evaluated since: the evaluation belongs to it.
            if rank is not None or (due and saved_at != progress.step):
                self._save(carry, rank)
                saved_at = progress.step
                agreed.update()
            if agreed.signal:
                words = f"{shlex.quote(str(self.run.path))}{trust_word(session.config)}"
                raise Stopped(
                    f"stopped at step {progress.step:,}, everything is saved; "
                    f"resume it with: {resume_command(session.ranks, words)}",
                    agreed.signal,
                )
            if ended:
                return
            if session.callbacks.stopped:  # by what came after the checkpoint
                continue
            started = time.perf_counter()
            taken = self._step(carry)
            self._busy += time.perf_counter() - started
            if taken is None:
                carry = session.init_carry()
                continue
            carry, loss, norm = taken
            self.console.step()
            session.callbacks.step(loss, norm)
            if progress.step % session.config.train.log_every == 0:
                self._log(norm)
            self._look_inside()

    def _step(self, carry: Carry) -> tuple[Carry, float, float] | None:
        """One optimizer step on the next batch; returns the carry after it, its mean loss, the norm of the gradient.

        None if the batch was skipped.
        """
        session, progress, options = self.session, self.progress, self.session.config.train
        at = session.moment(progress)
        session.task.begin_step(at)
        factor = session.lr_factor(at, progress) * session.train.lr_scale(progress.batch)
        for group, lr in zip(session.optimizer.param_groups, session.learning_rates, strict=True):
            group["lr"] = lr * factor
        if progress.batch == 0:
            carry = session.init_carry()
        batch = session.train[progress.batch]  # of which each rank reads its rows
        # sum: over time, mean over the batch, as Zaremba and lamb; mean: nats per token, as everybody else.
        normalizer = max(1, batch.tokens) if options.loss_unit == "mean" else batch.batch_size
        try:
            carry, loss = self.gradient(session.rows(batch), carry, normalizer)
            summed = loss.item()
        except NonFiniteError:  # what a model draws from
            summed = math.nan
        # An infinite loss can have a finite gradient: it is not followed either.
        finite = math.isfinite(summed)
        with record_function("optimizer"):
            norm = descend(session.optimizer, session.parameters, options.clip_norm, options.l2) if finite else math.nan
        if not math.isfinite(norm):
            self.recovery.skip(self._non_finite(summed))
            self._next_batch()
            return None
        session.update_average(at)
        progress.step += 1
        progress.skipped_in_a_row = 0
        self._next_batch()
        progress.tokens += batch.tokens
        if progress.step == 1:
            self.divergence.begin(summed / max(1, batch.tokens))
        progress.loss_sum += summed
        progress.loss_tokens += batch.tokens
        return carry, summed / max(1, batch.tokens), norm

    def _next_batch(self) -> None:
        progress, train = self.progress, self.session.train
        progress.batch += 1
        if progress.batch == len(train):
            progress.batch, progress.epoch = 0, progress.epoch + 1
            train.start_epoch(progress.epoch)

    def _log(self, norm: float) -> None:
        """Log the means since the last record."""
        session, progress = self.session, self.progress
        self.run.check_held()
        tokens = max(1, progress.loss_tokens)  # targets may all be missing
        loss = progress.loss_sum / tokens
        known = session.task.training_metrics(progress.loss_sum, tokens, session.data)
        values = {
            "train/loss": loss,
            **{f"train/{name}": value for name, value in known.items()},
            "train/grad_norm": norm,
            "train/lr": session.optimizer.param_groups[0]["lr"],
            "train/tokens_per_s": (progress.tokens - self._logged_tokens) / self._busy,
        }
        self.logger.scalars(progress.step, progress.tokens, self.agreed.elapsed(), values)
        epoch = progress.epoch + progress.batch / len(session.train)
        best = session.task.results(session.data).best(progress.valid) if progress.valid else ""
        self.divergence.observe(loss, session.schedule.warming_up(session.moment(progress)))
        self.console.training(epoch, values, "" if self.divergence.reason else best, progress.best_step)
        if self.divergence.reason and not self._warned:
            self._warned = True
            self.console.warn(f"{self.divergence.reason}: this run diverges; lower optim.lr or train.clip_norm")
        progress.loss_sum, progress.loss_tokens = 0.0, 0
        self._busy, self._logged_tokens = 0.0, progress.tokens

    def _look_inside(self) -> None:
        """Log weights, gradients and diagnoses, if they are due."""
        every, progress = self.session.config.train.log_parameters, self.progress
        if not self.session.ranks.leads:
            return
        if every and progress.step % every == 0:
            log_parameters(self.session.model, self.logger, progress.step, progress.tokens, self.agreed.elapsed())
        self.session.diagnosing.after_step(progress, self.logger, self.console.write)

    def _evaluate(self) -> Rank | None:
        """Score valid, log it, and return its rank, lower is better: the monitored metric, then the loss.

        None if a signal or the end of the time cut it short: then it never was.
        """
        session, progress = self.session, self.progress
        started = time.perf_counter()
        session.check_evaluated()
        with session.evaluated_weights():
            score = session.evaluate(lambda: bool(self.stop.number) or self.agreed.time_is_up())
            if score.partial:
                progress.seconds = self.agreed.elapsed()
                if not self.stop.number:
                    self.console.write(f"step {progress.step:>7,}  valid not used: time was up inside the evaluation")
                return None
            if not math.isfinite(score.loss_sum):
                raise NonFiniteError("the loss of valid is not finite")
            with status("sampling"):
                text, figures = session.ranks.lead(self._show) or ("", {})
        metrics = session.task.compute_metrics(score, session.data, "valid")
        monitored = session.task.monitored(metrics)
        rank, improved = progress.observe(monitored, metrics)
        if progress.step:  # what another run has come to (init_from) is to be beaten, not a step of this one
            progress.ranks.append(rank)
            session.schedule.observe(rank)
            session.averaging.observe(progress.ranks)
        progress.evaluation_seconds = time.perf_counter() - started
        progress.seconds += progress.evaluation_seconds
        tagged = {f"valid/{name}": value for name, value in metrics.items()}
        self.logger.scalars(progress.step, progress.tokens, progress.seconds, tagged)
        if progress.valid:  # empty as long as no evaluation was finite
            chosen = session.task.headlines(progress.valid)[0]
            self.logger.best(progress.step, progress.tokens, chosen, progress.valid[chosen])
        for name, figure in figures.items():
            self.logger.picture(name, figure.pixels, progress.step, progress.tokens)
        if text:
            self.logger.text("sample", text, progress.step, progress.tokens)
            self.run.save_sample(progress.step, text)
        if improved:
            self.best_diverged = bool(self.divergence.reason)
        verdict = "diverging" if self.divergence.reason else "best so far" if improved else "no improvement"
        shown = session.task.results(session.data).summary(metrics)
        self.console.evaluation(progress.step, shown, verdict, progress.seconds, text)
        session.callbacks.evaluation(metrics, improved)
        return rank

    def _show(self) -> tuple[str, dict[str, Heatmap]]:
        """A text and pictures that show what the model does, if the run is still ours."""
        self.run.check_held()
        task, model, data = self.session.task, self.session.model, self.session.data
        return task.display(model, data, self.session.config.sample), task.figures(model, data)

    def _save(self, carry: Carry, rank: Rank | None) -> None:
        """Write a checkpoint, and bring the logs to the disk."""
        started = time.perf_counter()
        self.logger.flush()  # first: the checkpoint keeps the digest of metrics.jsonl
        self.session.save(self.run, self.progress, carry, rank)
        self.agreed.saved()
        self.progress.saving_seconds += time.perf_counter() - started

    def _checkpoint_is_due(self) -> bool:
        """Every so many steps, and so many minutes after the last one."""
        every = self.session.config.checkpoint.every
        return self.agreed.save_is_late or (every is not None and self.progress.step % every == 0)

    def _evaluation_is_due(self) -> bool:
        """Every so many steps, or at the end of each epoch."""
        every = self.session.config.train.eval_every
        return self.progress.batch == 0 if every is None else self.progress.step % every == 0

    def _non_finite(self, summed: float) -> str:
        """Where NaN or infinity came from. Raises NonFiniteError if it was the weights: no batch is the cause then."""
        self.session.check_evaluated()
        named = self.session.model.named_parameters()
        bad = non_finite((name, one.grad) for name, one in named if one.grad is not None)
        gradient = f"the gradient of {bad}" if bad else "the norm of the gradient"
        return f"{gradient if math.isfinite(summed) else 'the loss'} is not finite"


def descend(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], clip_norm: float | None, l2: float = 0.0
) -> float:
    """One step down the gradient of loss + l2 / 2 ||w||^2, scaled to a norm of `clip_norm` at most; returns the norm.

    g <- g + l2 w,  g <- g * min(1, clip_norm / ||g||), ||g|| over all parameters (R. Pascanu et al., arXiv 1211.5063).
    Takes no step if the norm is not finite: one NaN would spread to every parameter for good.
    """
    gradients = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    if l2:
        for parameter, gradient in gradients.items():
            gradient.add_(parameter.detach(), alpha=l2)
    norm = nn.utils.get_total_norm(gradients.values())
    size = norm.item()
    if math.isfinite(size):
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
        optimizer.step()
    return size
