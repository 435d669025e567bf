"""Files of a run that were edited or damaged: nothing is trained or scored with them in silence."""

from __future__ import annotations

import json
import shutil

import pytest

import seqlm.runs.folder
from seqlm.config.values import load_config
from seqlm.errors import ConfigError
from seqlm.runs import checkpoint, sealed
from seqlm.runs.folder import RunFolder
from seqlm.runs.load import load_run
from seqlm.training.launch import resume, train

from ..conftest import tiny
from .test_resume import REPLAN, losses, weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed")
    train(tiny(folder, "train.steps=8"), {})
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.setattr(seqlm.runs.folder, "_noted", set())
    return RunFolder(tmp_path / "run")


def edit(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new))


LONGER = ["train.steps=12", REPLAN]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("eps: 1.0e-08", "eps: 1.0e-06", "optim.eps=1e-08, and the file has 1e-06"),
        ("\n  steps: 8", "\n  steps: 9", "train.steps=8, and the file has 9"),
        ("\n  bptt: 7", "\n  bptt 7", "cannot be read"),
    ],
)
def test_an_edited_config_is_refused_with_the_key(run, old, new, told):
    before = weights(run.path)
    edit(run.config, old, new)
    for use in (lambda: resume(run.path, LONGER), lambda: load_run(run.path)):
        with pytest.raises(ConfigError) as caught:
            use()
        assert told in str(caught.value) and f"cp {run.path}/config.kept.yaml {run.config}" in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 12
    assert ("type the key: seqlm resume" in str(caught.value)) == ("steps: 9" in new)
    shutil.copy(run.path / "config.kept.yaml", run.config)
    assert weights(run.path) == before
    resume(run.path, LONGER)


def test_values_count_and_not_how_they_are_written(run):
    edit(run.config, "eps: 1.0e-08", "eps: 0.00000001")
    resume(run.path, LONGER)
    assert run.info()["sha256"]["config.yaml"] == [sealed.sha256_of(run.config)]


def test_a_digest_that_is_damaged_itself_refuses_nothing(run, capsys):
    digest = run.info()["sha256"]["tokenizer.json"][0]
    edit(run.path / "run.json", digest, digest[::-1])
    edit(run.path / "run.json", (digest := run.info()["sha256"]["config.yaml"][0]), digest[::-1])
    load_run(run.path)
    assert "run.json was edited or damaged" in capsys.readouterr().err


def test_an_edited_tokenizer_is_refused(run):
    text = run.tokenizer.read_bytes()
    place = text.index(b'"a"') + 1
    run.tokenizer.write_bytes(text[:place] + b"z" + text[place + 1 :])
    for use in (lambda: resume(run.path, LONGER), lambda: load_run(run.path)):
        with pytest.raises(ConfigError, match="tokenizer.json was edited or damaged"):
            use()


def test_a_kill_between_the_config_and_its_digest_changes_nothing(run, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sealed, "seal", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            resume(run.path, LONGER)
    assert load_config(run.config).train.steps == 12 and len(run.info()["sha256"]["config.yaml"]) == 2
    assert resume(run.path, []).run.info()["steps"] == 12


def test_a_run_of_an_older_version_resumes_and_has_digests_then(run):
    info = json.loads((run.path / "run.json").read_text())
    for key in ("sha256", "checksum"):
        del info[key]
    (run.path / "run.json").write_text(json.dumps(info))
    for meta in run.checkpoints.glob("step-*/meta.json"):
        values = json.loads(meta.read_text())
        meta.write_text(json.dumps({key: values[key] for key in ("format", "step", "rank", "averaged", "seqlm")}))
        listed = [f"{sealed.sha256_of(meta.with_name(name))}  {name}\n" for name in checkpoint.FILES]
        meta.with_name("MANIFEST.sha256").write_text("".join(listed))
    resume(run.path, LONGER)
    assert set(run.info()["sha256"]) == {"config.yaml", "tokenizer.json"}


DAMAGES = [('{"step": 6', '{"step" 6', "(line 2)"), ('"step": 6', '"step": 5', "(a number in it)")]


@pytest.mark.parametrize(("old", "new", "told"), DAMAGES)
def test_a_damaged_record_is_kept_aside_and_named(run, capsys, old, new, told):
    others = [loss for loss in losses(run.path) if loss[0] < 6]
    edit(run.metrics, old, new)
    damaged = run.metrics.read_text()
    resume(run.path, LONGER)
    assert (run.path / "metrics.damaged.jsonl").read_text() == damaged
    assert told in capsys.readouterr().err
    assert losses(run.path)[: len(others)] == others and losses(run.path)[-1][0] == 12


def test_a_record_that_a_kill_cut_short_is_no_damage(run, capsys):
    with run.metrics.open("a") as file:
        file.write('{"step": 9, "tok')
    resume(run.path, LONGER)
    assert not (run.path / "metrics.damaged.jsonl").exists() and not capsys.readouterr().err
