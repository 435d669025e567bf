"""Searches: trials that are runs, killed and taken up again, pruned, failed; and what is said of them at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from seqlm.commands.compare import main as compare
from seqlm.commands.searching import print_findings
from seqlm.config.values import verb_config
from seqlm.config.verb_schema import SweepConfig
from seqlm.errors import ConfigError
from seqlm.runs import checkpoint
from seqlm.runs.folder import RunFolder
from seqlm.sweep import findings, study
from seqlm.sweep.search import Search
from seqlm.sweep.search_plan import plan_search
from seqlm.training.callbacks import Callback
from seqlm.training.launch import resume, train

from ..conftest import TINY, seqlm

WORDS = [*(word for word in TINY if not word.startswith(("optim.lr", "model.hidden"))), "sample.tokens=0"]
WORDS += ["model.num_layers=1", "train.steps=16", "train.eval_every=4", "checkpoint.every=2", "schedule=constant"]
SPACE = "optim.lr=log(1e-3,1e-1) model.hidden_size=int(4,12,4)"


def planned(folder, *own, words=(), space=SPACE, trials=3):
    settings = verb_config("sweep", SweepConfig, [f"search={space}", f"trials={trials}", *own])
    return plan_search("best", settings, [*WORDS, f"run.root={folder}", *words])


def run(search, *callbacks):
    """The next trial, trained to its end here as a worker would, and told."""
    job = search.take()
    train(job.config, job.choices, job.words, [*job.callbacks(), *callbacks])
    search.ended(job, job.place.state())
    return job


def trials(plan):
    return study.open_study(plan.folder, "none").get_trials()


class Killed(Callback):
    """A process that ends without another word, as far as the search can see."""

    def on_step(self, state):
        if state.step == 11:
            raise KeyboardInterrupt


def test_a_killed_trial_is_resumed_to_the_same_numbers_and_counts_once(tmp_path):
    plan = planned(tmp_path, trials=1)
    with pytest.raises(KeyboardInterrupt):
        run(search := Search(plan), Killed())
    assert [one.state.name for one in trials(plan)] == ["RUNNING"]
    assert list(trials(plan)[0].intermediate_values) == [1, 2]
    assert len(search) == 0  # it is left to the next command

    again = Search(planned(tmp_path, trials=1))
    assert (again.told, len(again)) == (0, 1)
    job = run(again)
    told, records = trials(plan)[0], evaluations(job.place.run)
    assert job.number == 1 and told.state == TrialState.COMPLETE and told.user_attrs["run"] == job.place.run.name
    assert job.place.run.info()["resumed"] == 1
    assert told.intermediate_values == dict(enumerate(records, 1)) and told.value == min(records)
    assert len(again) == 0 and again.take() is None
    assert len(Search(planned(tmp_path, trials=5))) == 4  # a rerun goes on counting

    alone = replace(job.config, resume=None, run=replace(job.config.run, name="alone"))
    assert evaluations(train(alone, job.choices).run) == records


def evaluations(run):
    return [one["valid/loss"] for one in run.records() if "valid/loss" in one]


def test_the_end_of_a_run_is_told_by_the_next_command_if_this_one_was_killed(tmp_path):
    plan = planned(tmp_path)
    job = Search(plan).take()
    train(job.config, job.choices, job.words)  # without its callback: nothing is reported either
    said = []
    again = Search(planned(tmp_path), said.append)
    told = trials(plan)[0]
    assert told.state == TrialState.COMPLETE and len(told.intermediate_values) == 4 and again.told == 1
    assert said == [f"[1/3] {job.differing}  finished"]


def test_failed_and_diverged_trials_have_no_value(tmp_path):
    plan = planned(tmp_path)
    search = Search(plan)
    failed = search.take()
    failed.place.set_failure("no such file", exit_code=1)
    search.ended(failed, failed.place.state())
    with pytest.raises(Exception, match="not finite"):
        run(search, Diverging())
    search = Search(planned(tmp_path))
    assert [(one.state.name, one.value) for one in trials(plan)] == [("FAIL", None), ("FAIL", None)]
    assert search.counts() == "2 failed" and len(search) == 1


class Diverging(Callback):
    def on_step(self, state):
        next(state.model.parameters()).fill_(float("nan"))


def test_values_drawn_twice_are_one_run(tmp_path):
    plan = planned(tmp_path, "sampler=random", space="model.hidden_size=choice(4,8)", trials=6)
    said = []
    search = Search(plan, said.append)
    while search:
        run(search) if len(list(plan.folder.glob("[!.]*/run.json"))) < 2 else search.take()
    assert len(list(plan.folder.glob("[!.]*/run.json"))) == 2 and search.told == 6
    assert len({one.value for one in trials(plan)}) == 2
    assert len(said) == 4 and all("with the same values" in text for text in said)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_one_worker_draws_the_same_trials_in_any_number_of_commands(tmp_path, sampler):
    space = planned(tmp_path).space

    def words(folder, reopened):
        (folder / ".sweep").mkdir(parents=True)
        found, made = [], study.open_study(folder, "none", ["minimize"])
        for _ in range(14):
            if reopened:
                made = study.open_study(folder, "none")
            trial = made.ask()
            found.append(study.draw(made, trial, space, sampler, 3))
            study.tell(made, trial.number, [trial.params["optim.lr"]])
        return found

    straight = words(tmp_path / "a", False)
    assert straight == words(tmp_path / "b", True) and len(set(map(tuple, straight))) > 10


def others(plan, *curves):
    """Complete trials with these values at their evaluations."""
    search = Search(plan)
    for number, curve in enumerate(curves):
        params = {"optim.lr": 0.01 + 0.001 * number, "model.hidden_size": 4}
        words = ["seqlm.x=1", *(f"{key}={value}" for key, value in params.items())]
        search.study.add_trial(
            create_trial(
                params=params,
                distributions={
                    "optim.lr": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True),
                    "model.hidden_size": optuna.distributions.IntDistribution(4, 12, step=4),
                },
                value=curve[-1],
                intermediate_values=dict(enumerate(curve, 1)),
                user_attrs={"words": words, "run": f"run{number}"},
            )
        )
    return search


@pytest.mark.parametrize(("pruner", "steps"), [("median", 8), ("none", 16)])
def test_the_pruner_ends_a_run_with_a_checkpoint(tmp_path, pruner, steps):
    search = others(planned(tmp_path, f"pruner={pruner}", trials=6), *[[0.1, 0.1, 0.1, 0.1]] * 5)
    job = run(search)
    told, info = trials(search.plan)[5], job.place.run.info()
    state = "pruned" if steps == 8 else "finished"
    assert (info["status"], info["steps"], job.place.state()) == (state, steps, state)
    assert checkpoint.steps(job.place.run.checkpoints)[-1] == steps
    assert told.state == (TrialState.PRUNED if steps == 8 else TrialState.COMPLETE)
    if steps == 8:
        assert "of the training was spared" in findings.saved(findings.findings_in(search.plan.folder))
        resume(job.place.run.path, [])
        assert job.place.run.info()["status"] == "finished"


def test_the_command_prunes(tmp_path):
    """In a process of its own, as users do: the journal has each evaluation when it comes, not at the end."""
    plan = others(planned(tmp_path, trials=6), *[[0.1, 0.1, 0.1, 0.1]] * 5).plan
    told = seqlm("sweep", "best", *WORDS, f"run.root={tmp_path}", f"search={SPACE}", "trials=6", cwd=tmp_path)
    assert trials(plan)[5].state == TrialState.PRUNED and list(trials(plan)[5].intermediate_values) == [1, 2]
    assert "1 of 6 trials: " in told.stdout and "of the training was spared" in told.stdout


def test_a_run_that_has_come_to_its_end_is_not_pruned(tmp_path):
    search = others(planned(tmp_path, trials=6, words=["train.steps=8"]), *[[0.1, 0.1]] * 5)
    assert run(search).place.state() == "finished"


def test_a_journal_cut_short_by_a_kill_is_read_and_continued(tmp_path):
    search = others(planned(tmp_path), [1.0])
    journal = study.journal_of(search.plan.folder)
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "worker')
    again = Search(planned(tmp_path))
    number = again.study.ask().number
    assert number == 1 and [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(trials(again.plan)) == 2
    journal.write_bytes(b"no journal\n" + whole)
    with pytest.raises(ConfigError, match="search.journal is damaged"):
        Search(planned(tmp_path))


def test_what_came_out_is_told_and_drawn(tmp_path, capsys):
    search = others(planned(tmp_path), *[[2.0, 1 + number / 10] for number in range(20)])
    print_findings(search.plan.folder)
    said = capsys.readouterr().out
    assert "trial 1  loss 1.0000" in said and "seqlm train seqlm.x=1 optim.lr=0.01 model.hidden_size=4" in said
    assert "best 3" in said and "loss 1.0000 to 1.2000; optim.lr 0.01 to 0.012; model.hidden_size 4 to 4" in said
    assert "importance  optim.lr 0." in said
    picture = (search.plan.folder / "search.svg").read_text()
    assert "<svg" in picture and str(search.plan.folder / "search.svg") in said


def test_several_objectives_have_a_front(tmp_path, capsys):
    plan = planned(tmp_path, "objective=loss,parameters", trials=2, words=["train.steps=4"])
    assert plan.pruner == "none"
    search = Search(plan)
    jobs = [run(search), run(search)]
    sizes = [RunFolder(job.place.run.path).info()["parameters"]["total"] for job in jobs]
    assert [one.values[1] for one in trials(plan)] == sizes
    compare([str(plan.folder), "--json", str(tmp_path / "found.json")])
    assert "Pareto" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "found.json").read_text())["searches"].values()
    assert found["trials"] == {"complete": 2} and found["objectives"] == ["loss", "parameters"]
    least = {one["values"]["parameters"] for one in found["front"]}
    assert min(sizes) in least and all(Path(one["run"]).is_dir() and one["words"] for one in found["front"])


def test_a_search_of_something_else_is_refused(tmp_path):
    Search(planned(tmp_path))
    with pytest.raises(ConfigError, match=r"(?s)holds another search.*train.steps=16, now 20"):
        Search(planned(tmp_path, words=["train.steps=20"]))
    with pytest.raises(ConfigError, match="search='optim.lr=log"):
        Search(planned(tmp_path, space="optim.lr=log(1e-3,1e-2)"))
    Search(planned(tmp_path, "pruner=hyperband", "sampler=random", words=["checkpoint.every=3"], trials=9))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search=optim.lrr=log(1e-4,1e-1)", "trials=2"], "optim.lrr"),
        (["search=train.clip_norm=float(-1,1)", "trials=2"], "train.clip_norm=-1.0"),
        (["search=optim.lr=log(1e-4,1e-1)"], "search=... needs a number of trials; give trials=40"),
        (["search=optim.lr=log(1e-4,1e-1)", "trials=2", "optim.lr=0.1"], "is searched, and given as optim.lr=0.1"),
        (["search=optim.lr=log(1e-4,1e-1)", "trials=2", "seed=1,2"], "seed has several values"),
        (["search=optim.lr=log(1e-4,1e-1)", "trials=2", "retry=true"], "retry=true is not for a search"),
        (["search=tags=choice([a],[b])", "trials=2"], "tags makes no difference to a run"),
        (["search=optim.lr=log(1e-4,1e-1)", "trials=2", "objective=f1"], "f1 is no metric; allowed: loss, ppl"),
        (
            ["search=optim.lr=log(1e-4,1e-1)", "trials=2", "objective=ppl,parameters", "pruner=median"],
            "pruner=median needs one objective: Optuna cannot say",
        ),
        (["search=optim.lr=log(1e-4,1e-1)", "trials=2", "objective=parameters", "pruner=median"], "is not measured at"),
        (["search=optim.lr=log(1e-4,1e-1)", "trials=2", "slurm=true"], "slurm=true submits jobs that are known"),
        (["trials=4"], "trials=4 is for a search; give search="),
    ],
)
def test_mistakes_end_with_2_before_anything_starts(tmp_path, words, message):
    failed = seqlm("sweep", "best", *WORDS, *words, "--dry-run", cwd=tmp_path, check=False)
    assert failed.returncode == 2 and message in failed.stderr and "Traceback" not in failed.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_counts_over_its_repetitions(tmp_path):
    words = ["sweep", "best", *WORDS, f"search={SPACE}", "jobs=2"]
    first = seqlm(*words, "trials=2", cwd=tmp_path)
    assert "2 of 2 trials have ended: 2 complete" in first.stdout and "seqlm train data=markov" in first.stdout
    assert "2 of 3 trials have ended" in seqlm(*words, "trials=3", "--dry-run", cwd=tmp_path).stdout
    more = seqlm(*words, "trials=3", cwd=tmp_path)
    assert more.stdout.count("finished  valid") == 1 and "3 of 3 trials have ended" in more.stdout
    compared = seqlm("compare", "outputs/best", cwd=tmp_path)
    assert "3 runs of 3 settings" in compared.stdout and "best 3" in compared.stdout
