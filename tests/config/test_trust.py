"""What a configuration may run is typed; a YAML file that says so is refused, and nothing of it is run."""

from __future__ import annotations

import pytest

import seqlm as package
from seqlm.config.compose import compose_words, expand
from seqlm.config.trust import check_trust
from seqlm.errors import ConfigError

from ..conftest import TINY, seqlm

AVERAGING = "averaging: {_target_: os.system, command: touch pwned}\n"
CALL = "{_target_: subprocess.call, args: [touch, pwned]}"
# A file of a --config-dir, the words that compose it, and what is said of it.
FILES = {
    "trust": ("local/default", "trust: [os.]\n" + AVERAGING, "", "default.yaml says trust=[os.]"),
    "interpolated": ("local/default", "note: os.\ntrust: [\"${note}\"]\n" + AVERAGING, "", "says trust="),
    "experiment": ("experiment/x", f"# @package _global_\ntrust: [os.]\n{AVERAGING}", "experiment=x", "says trust="),
    "swept": (
        "experiment/x", f"# @package _global_\ntrust: [os.]\n{AVERAGING}", "-m experiment=laptop,x", "says trust="
    ),
    "listed": (
        "experiment/x", f"# @package _global_\nhydra: {{sweeper: {{params: {{trust: '[os.]'}}}}}}\n{AVERAGING}",
        "-m experiment=x seed=1,2", "x.yaml says trust=[os.]",
    ),
    "callbacks": ("local/default", f"hydra: {{callbacks: {{x: {CALL}}}}}\n", "", "says hydra.callbacks.x._target_="),
    "packaged": ("debug/x", f"# @package hydra.callbacks\nx: {CALL}\n", "debug=x", "says hydra.callbacks.x"),
    "logging": ("local/default", "hydra: {job_logging: {root: {handlers: []}}}\n", "", "says hydra.job_logging.root"),
    "environment": ("local/default", "hydra: {job: {env_set: {LD_PRELOAD: x.so}}}\n", "", "says hydra.job.env_set"),
    "launcher": ("local/default", "hydra: {launcher: {_target_: os.getcwd}}\n", "-m seed=1,2", "says hydra.launcher"),
    "chosen": ("hydra/launcher/x", "_target_: os.system\n", "-m hydra/launcher=x seed=1,2", "says hydra.launcher"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_no_file_widens_what_may_run(name, tmp_path):
    place, text, words, message = FILES[name]
    file = tmp_path / "mine" / f"{place}.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    failed = seqlm("train", *TINY, "--config-dir", "mine", *words.split(), cwd=tmp_path, check=False)
    assert failed.returncode == 2 and message in failed.stderr, failed.stderr
    assert "Traceback" not in failed.stderr and str(file) in failed.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_the_same_holds_for_a_sweep_and_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text(f"# @package _global_\ntrust: [os.]\n{AVERAGING}")
    with pytest.raises(ConfigError, match="says trust="):
        expand(["--config-dir", ".", "experiment=x", "seed=1,2"])
    with pytest.raises(ConfigError, match="says trust="):
        compose_words([f"hydra.searchpath=[file://{tmp_path}]", "experiment=x"])
    with pytest.raises(ConfigError, match="says trust="):
        package.train(*TINY, tmp_path / "experiment" / "x.yaml")


def test_whatever_was_composed_trusts_no_more_than_was_typed():
    check_trust({"trust": ["mylab."]}, ["-m", "trust=[mylab.],[other.]"])
    with pytest.raises(ConfigError, match=r"trust=\[os.\] stands in a file"):
        check_trust({"trust": ["mylab.", "os."]}, ["trust=[mylab.]", "note='trust=[os.]'"])


def test_what_is_typed_holds(tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "hydra" / "launcher").mkdir(parents=True)
    (tmp_path / "local" / "default.yaml").write_text("trust: [mylab.]\nnote: mine\n")
    (tmp_path / "hydra" / "launcher" / "x.yaml").write_text("defaults: [basic]\n_target_: mylab.Launcher\n")
    words = [f"hydra.searchpath=[file://{tmp_path}]", "hydra/launcher=x"]
    config, _ = compose_words([*words, "trust=[mylab.,other.]"])
    assert (config.trust, config.note) == (["mylab.", "other."], "mine")
    with pytest.raises(ConfigError, match=r"(?s)_target_=mylab.Launcher.*type trust=\[mylab.\]"):
        compose_words([*words, "trust=[other.]"])
