"""Runs of their own that exchange weights through a folder; as a script, one of them: index, folder, pause, workdir."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import several
import toy
from scheme_checks import moved, same_on_eight_devices, steps

from kd_jax.losses import response, task
from kd_jax.schemes.codistillation import build
from kd_jax.schemes.shared_folder import collect, publish
from kd_jax.train import fit, loop
from kd_jax.types import Role, Scheme, Term

SOURCES = {"train": toy.source(48), "validation": None, "test": toy.source(24, "test")}
STUDENT = ("student.logits",)


def peer(index: int, folder: Path | str, count: int = 10, more=None, **options) -> Scheme:
    """Exchanges at steps 3, 6 and 9 of 10."""
    terms = {
        "ce": Term(task.cross_entropy_loss, STUDENT, ("batch.label",), where="batch.labelled"),
        "kd": Term(response.kd_loss, STUDENT, (f"stale_{1 - index}.logits",), 1.0, {"temperature": 2.0}),
    }
    roles = {"student": Role(toy.net(), group="student"), **(more or {})}
    return build(toy.parts(roles, terms, count), str(folder), **{"index": index, "every": 3, **options})


def settings(index: int) -> loop.Settings:
    return loop.Settings(batch_size=16, seed=index, log_every=5, eval_every=5, eval_batch_size=16)


def weights(seed: int):
    return toy.net().init(jax.random.key(seed), jnp.zeros((1, toy.FEATURES)))


def write_all(folder: Path, index: int, at=(0, 3, 6, 9)) -> None:
    """What peer `index` would have written at these steps, whatever it is."""
    for step in at:
        publish(folder, step, index, weights(100 + step))


def test_exchange_teaches_and_does_not_depend_on_the_mesh(tmp_path):
    write_all(tmp_path, 1)
    scheme = peer(0, tmp_path)
    assert [s.steps for s in scheme.stages] == [3, 3, 3, 1] and len({id(s.phases) for s in scheme.stages}) == 2
    assert scheme.stages[0].phases[0].tx is scheme.stages[1].phases[0].tx
    first, last, history = steps(scheme, count=3, stage=1)
    assert moved(first, last) == {"student"} and history[-1]["loss"] < history[0]["loss"]
    chex.assert_trees_all_equal((last.params["stale"]["stale_1"], last.stats["stale_1"]), weights(100))
    same_on_eight_devices(scheme, last, count=3, stage=1)


def start(folder: Path, pause: float, workdir: Path) -> subprocess.Popen:
    """Peer 1 as a process of its own."""
    return several.start_script(__file__, 1, folder, pause, workdir)


def test_two_processes_one_of_them_killed_and_started_again(tmp_path):
    folder, outputs = tmp_path / "folder", []

    def other() -> None:
        process = start(folder, 0.2, tmp_path / "1")
        while process.poll() is None and not (folder / "step00000006_peer1.npz").exists():
            time.sleep(0.01)
        process.kill()  # in its third stage: the checkpoint of step 6 is there or not
        outputs.append(process.communicate()[0])
        process = start(folder, 0.0, tmp_path / "1")
        outputs.append(process.communicate(timeout=300)[0])

    thread = threading.Thread(target=other)
    thread.start()
    loop.fit(peer(0, folder, timeout=300.0), SOURCES, settings(0), tmp_path / "0", toy.mesh())
    thread.join()
    assert "resumed at step" in outputs[1], outputs
    assert sorted(p.name for p in folder.iterdir()) == [
        f"step{step:08d}_peer{index}.npz" for step in (3, 6, 9) for index in (0, 1)
    ]
    # Run again without a break: other weights at an exchange than the killed one wrote then would be an error.
    again = loop.fit(peer(1, folder), SOURCES, settings(1), tmp_path / "again", toy.mesh())
    assert again["last"] == json.loads((tmp_path / "1" / "done.json").read_text())["last"]
    records = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("1", "again")]
    assert records[0] == records[1]


def enter(scheme: Scheme) -> None:
    steps(scheme, count=0, stage=1)


def test_what_goes_wrong_with_the_others(tmp_path):
    with pytest.raises(TimeoutError, match="Peer 1 has not written .*step00000000_peer1.npz within 0.1 s"):
        enter(peer(0, tmp_path, timeout=0.1))
    (tmp_path / "step00000000_peer1.npz").write_bytes((tmp_path / "step00000000_peer0.npz").read_bytes())
    with pytest.raises(ValueError, match="Peers 0 and 1 have the same weights at step 0"):
        enter(peer(0, tmp_path))
    publish(tmp_path / "b", 0, 1, toy.net(width=5).init(jax.random.key(0), jnp.zeros((1, toy.FEATURES))))
    with pytest.raises(ValueError, match="holds another network: .* arrays differ"):
        enter(peer(0, tmp_path / "b"))
    wide = {"stale_1": Role(toy.net(width=5), group="stale")}
    enter(peer(0, tmp_path / "b", more=wide))
    file = tmp_path / "b" / "step00000000_peer0.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="is damaged"):
        enter(peer(0, tmp_path / "b", more=wide))
    file.unlink()
    publish(tmp_path / "b", 0, 0, weights(7))
    with pytest.raises(ValueError, match="other weights than this run has at step 0"):
        enter(peer(0, tmp_path / "b", more=wide))


def test_half_precision_and_no_trace_of_a_failed_write(tmp_path):
    tree = jax.tree.map(lambda x: x.astype(jnp.bfloat16), weights(1))
    digest = publish(tmp_path, 5, 0, tree)
    averaged, same = collect(tmp_path, 5, 0, tree, 1.0)
    assert digest == same and [p.name for p in tmp_path.iterdir()] == ["step00000005_peer0.npz"]
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, averaged), jax.tree.map(np.asarray, tree))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"peers": 1}, "at least 2 peers"),
        ({"peers": 3, "index": 3}, r"index 0 .. 2 \(3\)"),
        ({"folder": ""}, "a folder"),
        ({"timeout": 0}, "above 0"),
        ({"every": 0}, "no exchange"),
        ({"every": 10}, "no exchange"),
        ({"more": {"stale_1": Role(toy.net())}}, "their group is 'stale'"),
        ({"peers": 3, "index": 1}, r"nothing reads \['stale_2'\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        peer(**{"index": 0, "folder": "folder", **options})


def main(index: str, folder: str, pause: str, workdir: str) -> None:
    batches = fit.train_batches

    def slow(*args, **kwargs):
        for batch in batches(*args, **kwargs):
            time.sleep(float(pause))
            yield batch

    fit.train_batches = slow
    loop.fit(peer(int(index), Path(folder)), SOURCES, settings(int(index)), Path(workdir), toy.mesh(), "peer")


if __name__ == "__main__":
    main(*sys.argv[1:])
