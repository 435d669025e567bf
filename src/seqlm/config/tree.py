"""The folder of YAML files. Apart, so that help and completion find it without importing a reader of YAML."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError


def find_configs() -> Path:
    """The folder of YAML files: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parents[1] / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"the configs folder is missing beside {package}; install seqlm again")
