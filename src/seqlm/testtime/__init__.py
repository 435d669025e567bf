"""What a trained model can do while it is tested: adapt its weights, remember what it read, change its temperature."""

from .adaptive import Adaptation, adaptive_evaluate
from .cache import Cache
from .dynamic import DynamicWeights
from .search import search

__all__ = ["Adaptation", "Cache", "DynamicWeights", "adaptive_evaluate", "search"]
