"""BLEU and chrF, by sacrebleu: the numbers that others report."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError, install_hint


def corpus_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """bleu and chrf of texts against one reference each, from 0 to 100; nothing of no texts.

    BLEU with sacrebleu's own tokenization (13a), K. Papineni et al. (2002), signatures as M. Post, arXiv 1804.08771;
    chrF2, M. Popovic (2015). Raises ConfigError if sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise ConfigError(f"task.bleu=true needs sacrebleu: {install_hint('translate')}") from None
    if not predictions:
        return {}
    metrics = {"bleu": BLEU(), "chrf": CHRF()}
    return {
        name: float(metric.corpus_score(list(predictions), [list(references)]).score)
        for name, metric in metrics.items()
    }
