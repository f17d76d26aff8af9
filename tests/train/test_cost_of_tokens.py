"""The cost of networks of tokens: timed without the logits of a whole batch, counted with them."""

import re

import jax
import numpy as np

from kd_jax.core.network import Network
from kd_jax.data.source import Source
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.decoder_families import llama
from kd_jax.system import cost
from kd_jax.train.results import measured
from kd_jax.types import Role

CLASSES, LENGTH, WIDTH, CHUNK = 1000, 24, 8, 16


def network(chunk):
    model = LinenModel(llama(CLASSES, WIDTH, depth=1, heads=2, hidden=16, tied=True, chunk=chunk))
    params, stats = model.init(jax.random.key(0), np.zeros((1, LENGTH), np.int32))
    return Network(model, params, stats, Role(model, ("batch.tokens",)), {}, "student.logits")


def test_what_is_timed_has_the_logits_of_a_chunk(monkeypatch):
    timed = []

    def noted(programs):
        timed.extend(program.as_text() for program, _ in programs)
        return [[1.0] * 3 for _ in programs]

    monkeypatch.setattr(cost, "rounds", noted)
    rows = np.ones((2, LENGTH), np.int32)
    source = Source("text", "test", CLASSES, (), (), (), (LENGTH,), rows, rows, entry="tokens")
    made = measured({"student": network(CHUNK), "teacher": network(4096)}, source, lambda batch, key, train: batch)
    student, teacher = (made[name] for name in ("student", "teacher"))
    assert student["flops"] == teacher["flops"] > 2 * LENGTH * WIDTH * CLASSES
    tokens = []
    for text in timed:
        shapes = [tuple(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", text)]
        tokens.append(max(np.prod(s[:-1]) for s in shapes if s[-1] == CLASSES and s[:-1] != (WIDTH,)))
    assert tokens[0] <= CHUNK and tokens[2] <= CHUNK < tokens[3] <= 4096  # of 1 example, of 128
