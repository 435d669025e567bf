"""Every YAML file composes, builds and trains."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from seqlm.commands.eval import check
from seqlm.config.build import build, defaults
from seqlm.config.schema import Config
from seqlm.config.values import load_config, save_config, verb_config, with_words
from seqlm.config.verb_schema import EvalConfig, SampleConfig
from seqlm.config.words import words_of
from seqlm.config.yaml_files import find_configs, read_saved, read_yaml, verb_files
from seqlm.errors import ConfigError
from seqlm.evaluation.reproduction import task_of
from seqlm.runs.assemble import check_parts
from seqlm.runs.folder import RunFolder
from seqlm.training.launch import train

from ..conftest import TINY, compose, seqlm, tiny

CONFIGS = find_configs()


def options(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def path_of(experiment, path):
    """The words that say where the data lies, if it is not generated, and what begins with another run."""
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    begins = ["init_from=run"] if "init_from: RUN" in text else []
    begins += ["model.language_models.0.run=run"] if "- run: RUN" in text else []
    generated = re.search("(override /data: (reverse|dates|taipei)|- taipei)$", text, re.M)
    return begins if generated else [f"data.path={path}", *begins]


# Experiments that do not read a text.
ON_EXAMPLES = [name for name in options("experiment") if task_of(name) not in ("lm", "bilm", "cloze")]


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiments_compose_check_and_name_their_source(experiment):
    config = compose(f"experiment={experiment}", *path_of(experiment, "x"))
    check_parts(config)
    limits = {"laptop": "minutes", "melis": "steps", "mogrifier": "steps"}
    assert set(config.train.limits) == {limits.get(experiment.partition("_")[0], "epochs")}
    header = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    assert "# @package _global_" in header and "# Published:" in header and "Measured:" in header
    assert f"results/{experiment}.json" in header
    assert re.search(rf"seqlm train experiment={experiment}\b", header)


def test_commands_in_headers_can_be_typed():
    """Every further command that an experiment's header gives, its numbers being those of the paper."""
    seen = []
    for name in options("experiment"):
        header = re.findall(r"^# (.*)$", (CONFIGS / "experiment" / f"{name}.yaml").read_text(), re.M)
        for verb, rest in re.findall(r"seqlm (eval RUN|train)((?: \S+=\S+)+)", "\n".join(header)):
            words = [word for word in rest.split() if not word.startswith("[")]
            if verb == "train":
                check_parts(compose(*words))
            else:
                check(verb_config("eval", EvalConfig, words))
                seen.append(name)
    assert {"awd_ptb", "awd_wt2", "mos_ptb", "gal_large", "zaremba_large"} <= set(seen) and seen.count("awd_ptb") == 3


@pytest.mark.parametrize(
    "experiment",
    [name for name in options("experiment") if not re.search("large|1500|enwik8", name) and name not in ON_EXAMPLES],
)
def test_experiments_train(experiment, tmp_path):
    """Two steps of each recipe on a small vocabulary: all its parts work together."""
    (tmp_path / "train.txt").write_text("a b c d e f g\n" * 300)
    (tmp_path / "valid.txt").write_text("a b c d e f g\n" * 20)
    small = ["data=text", "data/tokenizer=word", f"data.path={tmp_path}", f"run.root={tmp_path}", "train.steps=2",
             "sample.tokens=3", "train.batch_size=8", "train.bptt=6"]  # fmt: skip
    if "init_from=run" not in path_of(experiment, tmp_path):
        assert train(compose(f"experiment={experiment}", *small, "run.name=run"), {}).best < 6
        return
    with pytest.raises(ConfigError, match="^init_from=RUN: RUN does not exist"):
        train(compose(f"experiment={experiment}", *small, "run.name=first"), {})
    train(compose("experiment=awd_ptb", *small, "run.name=first"), {"experiment": "awd_ptb"})
    second = ["run.name=second", f"init_from={tmp_path / 'first'}"]
    assert train(compose(f"experiment={experiment}", *small, *second), {}).best < 6
    origin = RunFolder.open(tmp_path / "second").info()["began_with"]
    assert origin.items() >= {"run": "first", "step": 2, "experiment": "awd_ptb", "seed": 141}.items()


@pytest.mark.parametrize("experiment", ON_EXAMPLES)
def test_experiments_on_examples_train(experiment, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        for name, lines in {"seq.in": "to a\nfrom b 5\n", "seq.out": "O B-x\nO B-y I-y\n", "label": "l\nm\n"}.items():
            (tmp_path / split / name).write_text(lines * 20)
    small = ["data.sentences=80"] if experiment.startswith("taipei") else ["data.sizes=[50,8,8]"]
    data = path_of(experiment, tmp_path) or small
    if "model.language_models.0.run=run" in data:
        with pytest.raises(ConfigError, match="^model.language_models.0.run: run does not exist"):
            train(compose(f"experiment={experiment}", *data, f"run.root={tmp_path}"), {})
        train(tiny(tmp_path, name="read"), {})
        data = [*data, f"model.language_models.0.run={tmp_path / 'read'}"]
    config = compose(f"experiment={experiment}", *data, f"run.root={tmp_path}", "run.name=run",
                     "train.epochs=null", "train.steps=2", "train.batch_size=8")  # fmt: skip
    before = train(config, {}).best
    config.run.name, config.train.steps = "longer", 12
    assert train(config, {}).best <= before


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={name}"
        for group in (
            "data",
            "model",
            "optim",
            "schedule",
            "averaging",
            "data/tokenizer",
            "model/cell",
            "model/head",
            "model/output",
            "task",
        )
        for name in options(group)
    ],
)
def test_every_choice_checks(choice):
    group, _, name = choice.partition("=")
    text = (CONFIGS / group / f"{name}.yaml").read_text()
    wants_path = group == "data" and ("path: ???" in text or "\npath:" in text)
    more = ["data.path=x"] if wants_path else ["+model/head=tags"] if choice == "model=sequence_model" else []
    check_parts(compose(choice, *(["model=tagger"] if group == "model/head" else []), *more))


@pytest.mark.parametrize(
    "choice", [f"optim={name}" for name in options("optim")] + [f"schedule={name}" for name in options("schedule")]
)
def test_every_optimizer_and_schedule_trains(choice, tmp_path):
    before = train(tiny(tmp_path, choice, "train.steps=1", name="short"), {}).best
    rate = ["optim.lr=1.0"] if choice == "optim=sgd" else []
    assert train(tiny(tmp_path, choice, "train.steps=60", *rate, name="long"), {}).best < before


@pytest.mark.parametrize("debug", options("debug"))
def test_debug_settings_do_what_they_say(debug, tmp_path):
    small = [
        "data=markov",
        "data.tokens=30000",
        "model.hidden_size=32",
        f"run.root={tmp_path}",
        "run.name=run",
        "threads=1",
    ]
    words = small if debug != "overfit" else [*small[:2], "model.hidden_size=200", *small[3:]]
    train(compose(f"debug={debug}", *words), {})
    from ..training.test_training import of

    losses = list(of("train/loss", tmp_path / "run").values())
    assert losses[-1] < 0.1 if debug == "overfit" else losses


def test_saved_configs_are_plain_and_come_back_equal(tmp_path):
    config = compose(*TINY, "model.layers=[{cell: gru}]", "run.name=007", "sample.prompt='yes'")
    save_config(config, tmp_path / "config.yaml")
    assert asdict(load_config(tmp_path / "config.yaml")) == asdict(config)
    assert "${" not in (tmp_path / "config.yaml").read_text() and "!!" not in (tmp_path / "config.yaml").read_text()


def test_keys_that_a_run_does_not_know_yet(tmp_path):
    path, config = tmp_path / "config.yaml", compose(*TINY, "train.clip_norm=0.3")
    save_config(config, path)
    path.write_text(re.sub("  (l2|drop_state): .*\n|precision: .*\n", "", path.read_text()))
    assert "precision" not in path.read_text()
    assert asdict(load_config(path)) == asdict(config)
    path.write_text(path.read_text() + "presicion: float32\n")
    with pytest.raises(ConfigError, match="presicion is not a key of this configuration; did you mean precision"):
        load_config(path)


def test_trust_in_a_saved_config_is_not_believed(tmp_path):
    config = compose("trust=[os.]")
    assert config.trust == ["os."]
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml").trust == []


def test_the_verbs_yaml_files_hold_every_key():
    verb_config("eval", EvalConfig, [])
    verb_config("sample", SampleConfig, [])
    assert verb_config("eval", EvalConfig, ["data.path=2024", "bptt=9"]).data == {"path": "2024"}


def test_a_saved_config_is_read_as_omegaconf_reads_it(tmp_path):
    texts = ["08946e53a2", "12e5", "1e-05", "2024-01-02", "no", "null", "1_000", "0x1f", "1:30", "é: {"]
    odd = [*texts, 1e-05, 1e16, None, -2e-7, 1.5, 3, True]
    OmegaConf.save(OmegaConf.create({"odd": odd, "inner": {"lr": 1e-05, "name": "1984"}}), tmp_path / "config.yaml")
    assert read_saved(tmp_path / "config.yaml") == read_yaml(tmp_path / "config.yaml")
    assert read_saved(tmp_path / "config.yaml")["odd"] == odd


def test_comments_explain_the_keys():
    """Each key of the trunk that is not self-evident is explained where its value stands."""
    text = (CONFIGS / "train.yaml").read_text()
    keys = "bptt loss_unit clip_norm steps minutes patience eval_every every keep_every resume engine trust"
    for key in keys.split():
        assert re.search(rf"^\s*{key}:.*#", text, re.M), key


def test_nodes_name_their_own_package():
    for path in Path(CONFIGS).rglob("*.yaml"):
        for target in re.findall(r"^[^#\n]*_target_: (\S+)", path.read_text(), re.M):
            assert target.startswith(("seqlm.", "torch.optim.")), path


def test_devices_that_are_not_there_are_refused():
    from seqlm.device import prepare

    for device, precision, message in [
        ("cpu", "tf32", "precision=tf32 needs device=cuda; on the CPU use precision=float32 or bf16"),
        ("tpu", "float32", "device=tpu is unknown"),
        ("mps", "float32", "device=mps is not supported"),
        ("cuda:99", "float32", "device=cuda:99 is not there"),
    ]:
        with pytest.raises(ConfigError, match=message):
            prepare(device, precision)
    assert prepare("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_freed_memory_is_kept_unless_the_user_says_what_to_do(monkeypatch):
    from seqlm import device

    called = []

    class Library:
        def __init__(self, _):
            self.mallopt = lambda *numbers: called.append(numbers)

    monkeypatch.setattr(device.ctypes, "CDLL", Library)
    device.prepare("cpu")
    assert called == [(-4, 0), (-1, 2**31 - 1)]
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    device.prepare("cpu")
    assert len(called) == 2
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_")
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _: object())  # another C library
    device.prepare("cpu")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_training_on_cuda(tmp_path, precision):
    loss = train(
        tiny(tmp_path, "device=cuda", f"precision={precision}", "model.dropout.hidden=0.2", "train.steps=200"), {}
    ).best
    assert loss < 1.5


def test_build_of_every_cell_is_a_plain_constructor_call():
    for name in options("model/cell"):
        node = compose(f"model/cell={name}").model["cell"]
        assert build(node, "model.cell", input_size=3, hidden_size=4).input_size == 3


def test_data_paths_are_given_by_name():
    assert compose("data=ptb").data["path"] is None
    assert compose("data=ptb", "paths.ptb=there").data["path"] == "there"
    assert compose("data=ptb", "paths.ptb=there", "data.path=here").data["path"] == "here"
    assert compose("experiment=atis_slots", "paths.atis=there").data["path"] == "there"
    with pytest.raises(ConfigError, match="^data.path is not set and has no default: give data.path=...$"):
        compose("data=atis")
    with pytest.raises(ConfigError, match="paths.ptc is not a key of this configuration; did you mean paths.ptb"):
        compose("paths.ptc=there")
    assert "paths" not in asdict(compose())


def test_a_local_file_says_where_data_lies(tmp_path):
    """Found in a --config-dir, read after the experiment; the run keeps the path, and no trace of the file."""
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text(f"paths:\n  atis: {tmp_path}\nthreads: 1\n")
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        for name, lines in {"seq.in": "to a\nfrom b 5\n", "seq.out": "O B-x\nO B-y I-y\n", "label": "l\nm\n"}.items():
            (tmp_path / split / name).write_text(lines * 20)
    words = ["experiment=atis_elman", "model.hidden_size=6", "train.epochs=null", "train.steps=2", "run.name=run"]
    seqlm("train", "--config-dir", tmp_path, *words, cwd=tmp_path)
    config = load_config(tmp_path / "outputs" / "run" / "config.yaml")
    assert config.data["path"] == str(tmp_path) and config.threads == 1
    assert not any("local" in group for group in RunFolder.open(tmp_path / "outputs" / "run").info()["choices"])


# Values of presets, whose constructors have a plainer default.
RECIPES = {"schedule/cosine.yaml": {"warmup_steps", "final"}, "model/cloze.yaml": {"bidirectional"}}


def test_values_of_yaml_are_the_defaults_of_constructors():
    """YAML holds what users see and override; who builds a part in Python gets the same without naming it."""
    compared = 0
    for path in sorted(CONFIGS.rglob("*.yaml")):
        node = {} if path.parent == CONFIGS else read_yaml(path)
        if not str(node.get("_target_", "")).startswith("seqlm."):
            continue
        name = path.relative_to(CONFIGS).as_posix()
        for key, default in defaults(node, name).items():
            value = node.get(key)
            if key not in node or "${" in str(value) or key in RECIPES.get(name, ()) or key in ("dropout", "penalties"):
                continue  # mappings in YAML, all of them off, where None is off in Python
            assert value == (list(default) if isinstance(default, tuple) else default), f"{name}: {key}"
            compared += 1
    assert compared > 100


def test_keys_of_loading_a_run_are_shared():
    for verb in ("eval", "predict", "sample"):
        assert [file.name for file in verb_files(verb)] == [f"{verb}.yaml", "loading.yaml", "device.yaml"]
    assert [file.name for file in verb_files("bench")] == ["bench.yaml", "device.yaml"]
    assert verb_files("runs") == []


NAMES = [
    "1984",
    "nan",
    "1e3",
    "true",
    "é",
    "a&b",
    "c#",
    "book (1)",
    "a,b",
    "it's",
    "a\\b",
    "a\\'b",
    "[x",
    "x=y",
    " two  ",
    "日本",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_name_on_the_command_line(name):
    """Whatever hydra and YAML think of it."""
    if not name.startswith("["):  # which begins a list
        assert compose("data=text", f"data.path={name}").data["path"] == name
        assert compose(f"run.root={name}").run.root == name
    assert compose("data=text", *words_of({"data.path": name})).data["path"] == name
    given = with_words(Config, asdict(compose("data=text", "data.path=x")), [f"data.path={name}"])
    assert given.data["path"] == name


def test_a_tilde_is_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert compose("data=text", "data.path=~/a b.txt").data["path"] == "/home/me/a b.txt"
    assert compose("data=ptb", "paths.ptb=~/ptb").data["path"] == "/home/me/ptb"
    assert compose("run.root=~/runs").run.root == "/home/me/runs"
    given = with_words(Config, asdict(compose("data=text", "data.path=x")), ["data.path=~/a b.txt"])
    assert given.data["path"] == "/home/me/a b.txt"


def test_paths_in_the_grammar_of_hydra_are_left_to_it():
    assert compose("data=text", "data.path='a b'").data["path"] == "a b"
    assert compose("data=text", "data.path=${run.root}").data["path"] == "outputs"
    assert compose("data=text", "data.path=null").data["path"] is None
