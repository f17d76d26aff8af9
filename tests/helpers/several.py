"""Starts scripts of this folder, alone or in several processes on localhost, and joins them from inside."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from kd_jax.system import parallel

HELPERS = Path(__file__).parent
ROOT = HELPERS.parents[1]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HELPERS), str(ROOT), os.environ.get("PYTHONPATH", "")]),
}


def start_script(script: str, *arguments: object) -> subprocess.Popen:
    """Starts a script of this folder (or at an absolute path) that finds the helpers and the package."""
    command = [sys.executable, str(HELPERS / script), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=ENVIRONMENT
    )


def start(script: str, count: int, *arguments: object) -> list[subprocess.Popen]:
    """Starts `count` processes; each gets the arguments: port, count, its number, *arguments."""
    port = free_port()
    return [start_script(script, port, count, number, *arguments) for number in range(count)]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def finish(processes: list[subprocess.Popen]) -> list[str]:
    """Returns what they printed; all must end well."""
    outputs = [p.communicate(timeout=300)[0] for p in processes]
    assert all(p.returncode == 0 for p in processes), "\n".join(outputs)
    return outputs


def join(port: str, count: str, index: str, heartbeat: str = "30") -> None:
    """Called inside a process that `start` started."""
    if int(count) == 1:
        return
    config = {"enabled": True, "coordinator_address": f"127.0.0.1:{port}", "num_processes": int(count)}
    parallel.start_processes(config | {"process_id": int(index), "heartbeat_timeout_seconds": int(heartbeat)})
