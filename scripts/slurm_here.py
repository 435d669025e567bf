"""A real SLURM on this machine alone: munged, slurmctld, and a slurmd for each of its nodes, all in one folder.

    apt-get install slurm-wlm munge
    python scripts/slurm_here.py start FOLDER [NODES]     as root; prints the variable that the commands of SLURM need
    python scripts/slurm_here.py stop FOLDER

A container often has no cgroups of its own, so processes are tracked by their parents (linuxproc), and not bound to
cores.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort=16817
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=60
MinJobAge=3600
SlurmdTimeout=10
MpiDefault=none
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 MaxTime=INFINITE State=UP
"""
NODE = "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=1000"


def write_conf(folder: Path, nodes: int) -> Path:
    """slurm.conf for a cluster of `nodes` nodes with one core each, all of them this machine."""
    host = socket.gethostname()
    lines = [NODE.format(number=number, host=host, port=17000 + number) for number in range(1, nodes + 1)]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, nodes="\n".join(lines)))
    return conf


def start(folder: Path, nodes: int = 2) -> Path:
    """Start the daemons; returns the path of slurm.conf, which SLURM_CONF must name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir(exist_ok=True)
    key = folder / "munge.key"
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
    files = [f"--{name}={folder}/munge.{end}" for name, end in (("pid-file", "pid"), ("log-file", "log"))]
    files += [f"--seed-file={folder}/munge.seed", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    subprocess.run(["munged", "--force", *files], check=True, stderr=subprocess.DEVNULL)
    conf = write_conf(folder, nodes)
    os.environ["SLURM_CONF"] = str(conf)
    subprocess.run(["slurmctld", "-f", conf], check=True)
    for number in range(1, nodes + 1):
        start_node(folder, f"n{number}")
    end = time.monotonic() + 60
    while subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout.split()[:1] != ["idle"]:
        if time.monotonic() > end:
            raise SystemExit(f"SLURM does not come up: see {folder}/slurmctld.log")
        time.sleep(0.5)
    return conf


def start_node(folder: Path, node: str) -> None:
    """Start the daemon of a node."""
    (folder / f"spool-{node}").mkdir(exist_ok=True)
    subprocess.run(["slurmd", "-f", folder / "slurm.conf", "-N", node], check=True)


def kill_node(folder: Path, node: str) -> None:
    """Lose a node: its daemon, the keepers of its jobs, and every process in these, at once."""
    doomed = [int((folder / f"slurmd-{node}.pid").read_text())]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            environment = (process / "environ").read_bytes()
            if f"SLURMD_NODENAME={node}\0".encode() in environment and str(folder).encode() in environment:
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                keeps = Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"slurmstepd")
                doomed += [parent] * keeps + [int(process.name)]
    for number in dict.fromkeys(doomed):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def stop(folder: Path) -> None:
    """End the daemons; one that waits for its jobs is killed after some seconds."""
    numbers = []
    for file in [*folder.glob("slurmd-*.pid"), folder / "slurmctld.pid", folder / "munge.pid"]:
        with suppress(OSError, ValueError):
            numbers.append(int(file.read_text()))
            os.kill(numbers[-1], signal.SIGTERM)
    end = time.monotonic() + 10
    while time.monotonic() < end and any(Path(f"/proc/{number}").exists() for number in numbers):
        time.sleep(0.2)
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def main(words: list[str]) -> int:
    verb, folder, *rest = words if len(words) > 1 else ["", ""]
    if verb == "start":
        print(f"export SLURM_CONF={start(Path(folder).resolve(), *map(int, rest))}")
    elif verb == "stop":
        stop(Path(folder).resolve())
    else:
        print(__doc__)
    return 0 if verb in ("start", "stop") else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
