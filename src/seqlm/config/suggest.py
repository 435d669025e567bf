"""Messages for words that are no key, group, option or flag, with the likeliest one first."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

from .migrate import RENAMED, VERB_KEYS, renamed

Groups = Mapping[str, Sequence[str]]  # the options of each config group

# Names that other programs have for a key or a group (word_language_model, awd-lstm-lm, fairseq, Keras, Lightning,
# transformers), and the names here: the first of several that a verb knows is meant.
SYNONYMS = {
    "optimizer": "optim", "optimiser": "optim", "opt": "optim", "scheduler": "schedule", "lr_scheduler": "schedule",
    "lr_schedule": "schedule", "dataset": "data", "corpus": "data", "models": "model", "architecture": "model",
    "arch": "model", "rnn": "model", "rnn_type": "model", "cell": "model/cell", "cell_type": "model/cell",
    "tokenizer": "data/tokenizer", "tokeniser": "data/tokenizer", "preset": "experiment", "exp": "experiment",
    "learning_rate": "lr", "wd": "weight_decay", "adam_eps": "eps", "epsilon": "eps", "warmup": "warmup_steps",
    "num_epochs": "epochs", "n_epochs": "epochs", "max_epochs": "epochs", "epoch": "epochs", "max_steps": "steps",
    "num_steps": "steps", "iters": "steps", "iterations": "steps", "max_iters": "steps", "time": "minutes",
    "bs": "batch_size", "bsz": "batch_size", "batch": "batch_size", "minibatch": "batch_size",
    "eval_batch": "eval_batch_size", "grad_accum": "accumulate", "gradient_accumulation_steps": "accumulate",
    "length": "bptt tokens", "seq_len": "bptt tokens", "seq_length": "bptt tokens", "sequence_length": "bptt tokens",
    "seqlen": "bptt tokens", "block_size": "bptt", "window": "bptt", "max_length": "tokens bptt",
    "max_len": "tokens bptt", "max_tokens": "tokens", "max_new_tokens": "tokens", "num_tokens": "tokens",
    "hidden": "hidden_size", "hidden_dim": "hidden_size", "nhid": "hidden_size", "units": "hidden_size",
    "num_units": "hidden_size", "d_model": "hidden_size", "width": "hidden_size", "size": "hidden_size",
    "embedding": "embedding_size", "emb": "embedding_size", "emsize": "embedding_size",
    "embedding_dim": "embedding_size", "embed_dim": "embedding_size", "emb_size": "embedding_size",
    "layers": "num_layers", "n_layers": "num_layers", "nlayers": "num_layers", "depth": "num_layers",
    "num_hidden_layers": "num_layers", "bidir": "bidirectional", "tie_weights": "tied", "tie": "tied",
    "dropout": "dropout.output", "drop": "dropout.output", "dropouth": "dropout.hidden", "dropouti": "dropout.input",
    "dropoute": "dropout.embedding", "wdrop": "dropout.weight", "recurrent_dropout": "dropout.weight",
    "alpha": "penalties.activation", "beta": "penalties.temporal",
    "clip": "clip_norm", "grad_clip": "clip_norm", "clip_grad_norm": "clip_norm", "max_grad_norm": "clip_norm",
    "gradient_clip_val": "clip_norm", "early_stopping": "patience", "nonmono": "nonmonotone",
    "log_interval": "log_every", "log_steps": "log_every", "logging_steps": "log_every", "log": "log_every",
    "eval_interval": "eval_every", "eval_steps": "eval_every", "save_every": "checkpoint.every",
    "save_interval": "checkpoint.every", "save_steps": "checkpoint.every", "save_total_limit": "keep_last",
    "cuda": "device=cuda", "gpu": "device=cuda", "gpus": "device=cuda", "use_cuda": "device=cuda", "cpu": "device=cpu",
    "fp16": "precision=bf16", "bf16": "precision=bf16", "amp": "precision=bf16", "half": "precision=bf16",
    "dtype": "precision", "workers": "threads", "num_workers": "threads", "num_threads": "threads", "cores": "threads",
    "random_seed": "seed", "manual_seed": "seed", "backend": "engine", "kernel": "engine",
    "name": "run.name", "run_name": "run.name", "exp_name": "run.name", "out": "run.root", "output": "run.root",
    "output_dir": "run.root", "outdir": "run.root", "save_dir": "run.root", "save": "run.name", "log_dir": "run.root",
    "file": "data.path", "path": "data.path", "text": "data.path prompt", "data_dir": "data.path",
    "data_path": "data.path", "train_file": "data.train", "valid_file": "data.valid", "validation_file": "data.valid",
    "dev": "data.valid", "test_file": "data.test", "vocab_size": "max_size", "min_freq": "min_count",
    "init": "init_from", "pretrained": "init_from", "finetune": "init_from", "message": "note", "tag": "tags",
    "n": "texts", "num": "texts", "count": "texts", "samples": "texts", "num_samples": "texts",
    "num_return_sequences": "texts", "temp": "temperature", "t": "temperature", "k": "top_k", "topk": "top_k",
    "p": "top_p", "topp": "top_p", "nucleus": "top_p", "prime": "prompt", "prefix": "prompt", "start": "prompt",
    "label": "condition", "ckpt": "checkpoint", "step": "checkpoint steps", "model_path": "checkpoint",
    "dataset_split": "split", "subset": "split", "set": "split", "fold": "split", "on": "split",
    "average": "average_last", "dynamic_lr": "dynamic.lr", "dynamic_eval": "dynamic.lr",
    "mc_dropout": "monte_carlo.samples",
    "beam": "task", "beam_size": "task", "num_beams": "task", "output_format": "output", "fmt": "format",
    "shape": "shapes", "level": "levels", "parallel": "jobs",
    "processes": "jobs", "njobs": "jobs", "n_jobs": "jobs",
}  # fmt: skip


def nearest(name: str, names: Iterable[str], count: int) -> list[str]:
    """The names that are most like a misspelt one, at most `count`."""
    return difflib.get_close_matches(name, list(names), count, 0.6)


def unknown_option(group: str, option: str, allowed: Sequence[str]) -> str:
    """The message for an option that a group does not have, the likely ones first."""
    low = option.lower()
    likely = [name for name in allowed if low and name.startswith(low)] or nearest(low, allowed, 3)
    hint = f"did you mean {', '.join(likely[:3])}? " if likely else ""
    return f"{group}={option} is unknown; {hint}allowed: {', '.join(allowed)}"


def unknown_word(word: str, known: Iterable[str], groups: Groups, verb: str = "train") -> str:
    """The message for `key=value` whose key is neither a key nor a group."""
    key, _, value = word.lstrip("+~").partition("=")
    if found := _group(key, value, groups):
        return f"{key} is neither a group nor a key; did you mean {found}?"
    return unknown_key(key, known, verb)


def unknown_flag(flag: str, value: str, known: Iterable[str], groups: Groups, flags: Iterable[str], verb: str) -> str:
    """The message for `--flag value` where there is no such flag, but perhaps a key."""
    if near := difflib.get_close_matches(flag, list(flags), 1, 0.75):
        return f"{flag} is unknown; did you mean {near[0]}?"
    key = flag.lstrip("-").replace("-", "_")
    found = len(key) > 1 and (_group(key, value, groups) or [*_meant(key, list(known)), ""][0])
    if not found:
        return f"{flag} is unknown; see seqlm {verb} --help"
    typed = found if "=" in found else f"{found}={value or '...'}"
    return f"{flag} is no flag; keys are typed as key=value: {typed}"


def value_behind(rest: list[str]) -> str:
    """The word behind an unknown flag, if it may be its value, taken out of `rest`; else an empty text."""
    return rest.pop(0) if rest and "=" not in rest[0] and rest[0][:1] not in "-~" else ""


def unknown_key(key: str, known: Iterable[str], verb: str = "train") -> str:
    """The message for a key that does not exist, with its new name or the likeliest ones that do."""
    known = list(known)
    today = renamed(key) or VERB_KEYS.get(key)
    if today and (today in known or renamed(key)):
        return f"{key} is now {today}"
    section = key.rpartition(".")[0]
    siblings = [item.rpartition(".")[2] for item in known if section and item.rpartition(".")[0] == section]
    likely = _meant(key, known)
    hint = f"did you mean {', '.join(likely)}?" if likely else f"in {section} there are: {', '.join(siblings)}"
    return f"{key} is not a key of this configuration; {hint if likely or siblings else f'see seqlm {verb} --help'}"


def _meant(key: str, known: Sequence[str]) -> list[str]:
    """The keys that may be meant by one that does not exist, the likeliest first: three at most."""
    section, _, last = key.lower().rpartition(".")
    siblings = {item.rpartition(".")[2]: item for item in known if item.rpartition(".")[0] == section}
    elsewhere = [item for item in known if f".{item}".endswith(f".{last}")]
    if section and elsewhere:  # the section that is most like the one that was typed
        near = difflib.get_close_matches(section, [item.rpartition(".")[0] for item in elsewhere], 1, 0.0)
        elsewhere.sort(key=lambda item: item.rpartition(".")[0] not in near)
    others = [one for name in SYNONYMS.get(last, "").split() for one in _called(name, known)][:1]
    lasts = {item.rpartition(".")[2] for item in known}
    ways: Sequence[Callable[[], list[str]]] = (
        lambda: [siblings[name] for name in nearest(last, siblings, 1)] if section else others,
        lambda: elsewhere or others,
        lambda: [item for item in known if len(last) > 2 and item.rpartition(".")[2].startswith(last)],
        lambda: [_called(name, known)[0] for name in nearest(last, lasts, 1)],
        lambda: difflib.get_close_matches(key, known, 1, 0.75),
        lambda: [new for old, new in RENAMED.items() if old.rpartition(".")[2] == key],
    )
    return next((found[:3] for way in ways if (found := way())), [])


def not_key_value(word: str, values: Mapping[str, Sequence[str]], hint: str) -> str:
    """The message for a word without a key, which may be one of the `values` of a key or group."""
    found = next((f"{key}={word}" for key, options in values.items() if word in options), "")
    return f"{word} is not key=value; {f'did you mean {found}? {hint}' if found else hint}"


def _called(name: str, known: Sequence[str]) -> list[str]:
    """The keys that end in `name`; or `name` itself, if it is `key=value` of a key."""
    if "=" in name:
        return [name] if name.partition("=")[0] in known else []
    return [item for item in known if f".{item}".endswith(f".{name}")]


def _group(key: str, value: str, groups: Groups) -> str:
    """`group=option` as it was meant; empty if it looks like something else."""
    low = value.lower()
    if (meant := SYNONYMS.get(key.lower(), "")) in groups:
        return f"{meant}={low if low in groups[meant] else '|'.join(groups[meant][:4])}"
    near = [name for name in nearest(key, groups, 3) if value in groups[name]]
    near = near or (nearest(key, groups, 1) if "/" in key else [])
    return f"{near[0]}={value}" if near else ""
