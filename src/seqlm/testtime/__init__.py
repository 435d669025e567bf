"""What trained models can do while they are tested: agree on a word, adapt, remember, change temperature."""

from .adaptive import adaptive_evaluate
from .cache import Cache
from .dynamic import DynamicWeights
from .scorer import Scorer

__all__ = ["Cache", "DynamicWeights", "Scorer", "adaptive_evaluate"]
