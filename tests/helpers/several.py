"""Starts a script of this folder in several processes on localhost, and joins them from inside it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from kd_jax.system import parallel

HERE = Path(__file__).parent


def start(script: str, count: int, *arguments: object) -> list[subprocess.Popen]:
    """Each process gets the arguments: port, count, its own number, *arguments."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": path})
    own = [[str(x) for x in (HERE / script, port, count, i, *arguments)] for i in range(count)]
    return [subprocess.Popen([sys.executable, *each], **options) for each in own]


def finish(processes: list[subprocess.Popen]) -> list[str]:
    """What they printed; all must end well."""
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    assert all(p.returncode == 0 for p in processes), "\n".join(outputs)
    return outputs


def join(port: str, count: str, index: str, heartbeat: str = "30") -> None:
    if int(count) == 1:
        return
    config = {"enabled": True, "coordinator_address": f"127.0.0.1:{port}", "num_processes": int(count)}
    parallel.start_processes(config | {"process_id": int(index), "heartbeat_timeout_seconds": int(heartbeat)})
