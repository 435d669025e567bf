"""A stand-in for a SLURM cluster: sbatch, squeue, scontrol and scancel on the PATH, and nodes that are processes here.

It does what a real one (22.05) was seen to do, as far as a job can notice: USR1 reaches the batch shell alone, by
--signal; `scontrol requeue`, preemption and time limits send SIGCONT and SIGTERM to all processes of a job, and SIGKILL
a while later; a lost node kills them all at once; a requeued job keeps its number and waits before it starts again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLIENT = """#!{python} -SE
import json, os, socket, sys
here = socket.socket(socket.AF_UNIX)
here.connect({socket!r})
asked = {{"name": os.path.basename(sys.argv[0]), "words": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
here.sendall(json.dumps(asked).encode() + b"\\n")
answer = json.loads(here.makefile().readline())
sys.stdout.write(answer["out"])
sys.stderr.write(answer["err"])
sys.exit(answer["code"])
"""
KNOWN = {  # of the options of sbatch
    "parsable", "job-name", "array", "output", "open-mode", "chdir", "requeue", "signal", "nodes", "ntasks",
    "partition", "account", "qos", "time", "mem", "cpus-per-task", "gres", "constraint", "comment", "exclude",
}  # fmt: skip
TICK = 0.02


class Refused(Exception):
    """The error of a command, which leaves with code 1."""


@dataclass
class Job:
    """A job, or a task of an array, from its submission to its end."""

    number: int
    array: int
    index: int | None
    script: Path
    options: dict[str, str]
    env: dict[str, str]
    state: str = "PENDING"
    reason: str = "None"
    node: str = ""
    restarts: int = 0
    eligible: float = 0.0
    started: float = 0.0
    warned: bool = False
    process: Any = None
    deadline: float | None = None  # until which it may clear up
    then: str = ""  # the state behind it
    history: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.array) if self.index is None else f"{self.array}_{self.index}"

    @property
    def runs(self) -> bool:
        return self.process is not None


class StandIn:
    """A cluster of `nodes` with one job each. A context manager, which kills what still runs.

    Args:
        folder: where its commands are, in bin/, and what it needs to keep.
        kill_wait: seconds between SIGTERM and SIGKILL.
        requeue_wait: seconds before a requeued job may start again.
        largest_array: MaxArraySize.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 4,
        kill_wait: float = 20.0,
        requeue_wait: float = 0.1,
        largest_array: int = 1001,
    ) -> None:
        self.folder, self.kill_wait, self.requeue_wait = folder, kill_wait, requeue_wait
        self.largest_array, self.refusal = largest_array, ""
        self.nodes = {f"node{number}": True for number in range(1, nodes + 1)}  # whether it is up
        self.jobs: list[Job] = []
        self.submitted: list[list[str]] = []  # the words of each sbatch
        self._next, self._lock, self._leaving = 1, threading.RLock(), threading.Event()
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        address = str(folder / "socket")
        for name in ("sbatch", "squeue", "scontrol", "scancel"):
            (self.bin / name).write_text(CLIENT.format(python=sys.executable, socket=address))
            (self.bin / name).chmod(0o755)
        self._server = _serve(address, self._answer)
        self._ticker = threading.Thread(target=self._tick_on, daemon=True)

    def __enter__(self) -> StandIn:
        self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._leaving.set()
        self._ticker.join()
        self._server.shutdown()
        self._server.server_close()
        for job in self.jobs:
            if job.runs:
                _signal_all(job, signal.SIGKILL)
                job.process.wait()

    def wait(self, seconds: float) -> None:
        """Until all jobs have ended."""
        end = time.monotonic() + seconds
        while any(job.state in ("PENDING", "RUNNING", "COMPLETING") for job in self.jobs):
            assert time.monotonic() < end, [(job.name, job.state, job.history) for job in self.jobs]
            time.sleep(TICK)

    def running(self) -> list[Job]:
        with self._lock:
            return [job for job in self.jobs if job.state == "RUNNING"]

    def warn(self, job: Job) -> None:
        """Send USR1 to the batch shell alone, as --signal=B:USR1@120 does before the limit."""
        with self._lock:
            if job.state == "RUNNING" and not job.warned:
                job.warned = True
                job.history.append("USR1")
                job.process.send_signal(signal.SIGUSR1)

    def preempt(self, job: Job) -> None:
        """Take a job's node from it: it is requeued once it has left."""
        with self._lock:
            if job.state == "RUNNING":
                self._end_soon(job, "PENDING", "preempted")

    def lose(self, node: str, seconds: float = 0.5) -> None:
        """Lose a node with all that runs on it; it is back after a while, its job is requeued."""
        with self._lock:
            self.nodes[node] = False
            for job in self.jobs:
                if job.runs and job.node == node:
                    _signal_all(job, signal.SIGKILL)
                    job.process.wait()
                    job.history.append(f"lost {node}")
                    self._requeue(job)
        threading.Timer(seconds, self.nodes.__setitem__, (node, True)).start()

    # The clock of the controller.

    def _tick_on(self) -> None:
        while not self._leaving.wait(TICK):
            with self._lock:
                for job in self.jobs:
                    if job.runs:
                        self._look_after(job)
                free = [node for node, up in self.nodes.items() if up and not self._on(node)]
                for job in self.jobs:
                    if free and job.state == "PENDING" and self._may_start(job):
                        self._start(job, free.pop(0))

    def _on(self, node: str) -> bool:
        return any(job.runs and job.node == node for job in self.jobs)

    def _may_start(self, job: Job) -> bool:
        most = job.options.get("array", "").partition("%")[2]
        beside = sum(other.runs for other in self.jobs if other.array == job.array)
        full = bool(most) and beside >= int(most)
        waits = time.monotonic() < job.eligible
        job.reason = "BeginTime" if waits else "JobArrayTaskLimit" if full else "Resources"
        return not waits and not full

    def _start(self, job: Job, node: str) -> None:
        log = job.options["output"].replace("%%", "\0")
        for letter, value in (("%A", job.array), ("%a", job.index), ("%j", job.number)):
            log = log.replace(letter, str(value))
        env = {
            **job.env, "SLURM_JOB_ID": str(job.number), "SLURMD_NODENAME": node, "SLURM_CPUS_ON_NODE": "1",
            "SLURM_ARRAY_JOB_ID": str(job.array), "SLURM_RESTART_COUNT": str(job.restarts),
        }  # fmt: skip
        if job.index is not None:
            env["SLURM_ARRAY_TASK_ID"] = str(job.index)
        mode = "ab" if job.options.get("open-mode") == "append" else "wb"
        with open(log.replace("\0", "%"), mode) as output:
            job.process = subprocess.Popen(
                [job.script], cwd=job.options["chdir"], env=env, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        job.state, job.node, job.reason, job.started, job.warned = "RUNNING", node, "None", time.monotonic(), False
        job.history.append(f"on {node}")

    def _look_after(self, job: Job) -> None:
        code = job.process.poll()
        if job.deadline is not None:
            if code is None and time.monotonic() >= job.deadline:
                job.history.append("SIGKILL")
            elif code is None:
                return
            _signal_all(job, signal.SIGKILL)
            job.process.wait()
            then, job.deadline = job.then, None
            self._requeue(job) if then == "PENDING" else self._ended(job, then)
        elif code is not None:
            _signal_all(job, signal.SIGKILL)  # what the batch shell leaves behind
            self._ended(job, "COMPLETED" if code == 0 else "FAILED", "None" if code == 0 else "NonZeroExitCode")
            job.history.append(f"ended with {code}")
        elif (limit := _seconds(job.options.get("time"))) is not None:
            now, warning = time.monotonic() - job.started, job.options.get("signal", "").rpartition("@")[2]
            if warning and now >= limit - int(warning):
                self.warn(job)
            if now >= limit:
                self._end_soon(job, "TIMEOUT", "TimeLimit")

    def _end_soon(self, job: Job, then: str, why: str) -> None:
        job.state, job.then, job.deadline = "COMPLETING", then, time.monotonic() + self.kill_wait
        job.history.append(why)
        _signal_all(job, signal.SIGCONT)
        _signal_all(job, signal.SIGTERM)

    def _ended(self, job: Job, state: str, reason: str = "None") -> None:
        job.state, job.reason, job.process = state, "TimeLimit" if state == "TIMEOUT" else reason, None

    def _requeue(self, job: Job) -> None:
        if "requeue" not in job.options:
            self._ended(job, "NODE_FAIL")
            return
        job.state, job.process, job.node = "PENDING", None, ""
        job.restarts, job.eligible = job.restarts + 1, time.monotonic() + self.requeue_wait

    # The commands.

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            with self._lock:
                out = getattr(self, f"_{asked['name']}")(asked)
            return {"out": out, "err": "", "code": 0}
        except Refused as error:
            return {"out": "", "err": f"{asked['name']}: error: {error}\n", "code": 1}

    def _sbatch(self, asked: dict[str, Any]) -> str:
        *words, file = asked["words"]
        if self.refusal:
            raise Refused(self.refusal)
        text = (Path(asked["cwd"]) / file).read_text()
        if not text.startswith("#!"):
            raise Refused("This does not look like a batch script.")
        written = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
        options = _options([word for line in written for word in shlex.split(line, comments=True)]) | _options(words)
        if unknown := options.keys() - KNOWN:
            raise Refused(f"unrecognized option '--{sorted(unknown)[0]}'")
        number = self._next
        places = _places(options["array"]) if "array" in options else [None]
        if places[-1] is not None and places[-1] >= self.largest_array:
            raise Refused("Batch job submission failed: Invalid job array specification")
        script = self.folder / f"{number}.sh"
        script.write_text(text)
        script.chmod(0o755)
        self.submitted.append(asked["words"])
        for place in places:
            self.jobs.append(Job(self._next, number, place, script, options, asked["env"]))
            self._next += 1
        return f"{number}\n" if "parsable" in options else f"Submitted batch job {number}\n"

    def _squeue(self, asked: dict[str, Any]) -> str:
        words = asked["words"]
        form = next(word.partition("=")[2] for word in words if word.startswith("--format="))
        lines = []
        for job in self.jobs:
            if "--states=all" in words or job.state in ("PENDING", "RUNNING", "COMPLETING"):
                values = {
                    "%F": job.array, "%K": "N/A" if job.index is None else job.index, "%T": job.state,
                    "%N": job.node, "%r": job.reason,
                }  # fmt: skip
                lines.append(
                    re.sub("%[A-Za-z]", "{}", form).format(*(values[key] for key in re.findall("%[A-Za-z]", form)))
                )
        return "".join(f"{line}\n" for line in lines)

    def _scontrol(self, asked: dict[str, Any]) -> str:
        verb, *words = asked["words"]
        if verb == "show":
            return f"Configuration data as of now\nMaxArraySize            = {self.largest_array}\n"
        for job in self.jobs:
            if verb == "requeue" and words[0] in (str(job.number), job.name) and job.runs:
                if "requeue" not in job.options:
                    raise Refused("Requested operation is presently disabled for job")
                self._end_soon(job, "PENDING", "requeued")
                return ""
        raise Refused(f"Invalid job id specified for job {' '.join(words)}")

    def _scancel(self, asked: dict[str, Any]) -> str:
        for job in self.jobs:
            if {str(job.array), job.name} & {*asked["words"]}:
                if job.runs:
                    self._end_soon(job, "CANCELLED", "scancel")
                elif job.state == "PENDING":
                    job.state = "CANCELLED"
        return ""


def _serve(address: str, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> socketserver.BaseServer:
    """Answer each line of JSON that comes on a socket."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(BrokenPipeError):  # who asked was killed meanwhile
                self.wfile.write(json.dumps(answer(json.loads(self.rfile.readline()))).encode() + b"\n")

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        address_family = socket.AF_UNIX

    server = Server(address, Handler)
    threading.Thread(target=server.serve_forever, args=(TICK,), daemon=True).start()
    return server


def _options(words: list[str]) -> dict[str, str]:
    return {word[2:].partition("=")[0]: word.partition("=")[2] for word in words if word.startswith("--")}


def _places(array: str) -> list[int]:
    first, _, last = array.partition("%")[0].partition("-")
    return list(range(int(first), int(last or first) + 1))


def _seconds(limit: str | None) -> float | None:
    """A time limit of sbatch, `minutes`, `minutes:seconds` or `hours:minutes:seconds`."""
    if limit is None:
        return None
    parts = [int(part) for part in limit.split(":")]
    hours, minutes, seconds = (0, parts[0], 0) if len(parts) == 1 else (0, *parts) if len(parts) == 2 else parts
    return hours * 3600.0 + minutes * 60.0 + seconds


def _signal_all(job: Job, number: int) -> None:
    """Send a signal to every process that was started in a job, whatever session it is in."""
    mark = f"SLURM_JOB_ID={job.number}\0".encode()
    own = f"SLURM_ARRAY_JOB_ID={job.array}\0".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes()
            if mark in environment and own in environment and str(job.script.parent).encode() in environment:
                os.kill(int(folder.name), number)
