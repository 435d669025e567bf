"""One file per source of text or examples."""
