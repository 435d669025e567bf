"""Text and examples to ids and back."""
