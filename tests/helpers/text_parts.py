"""What the text schemes of configs/language.py are built from, with small decoders on the toy language."""

import dataclasses

import jax
import scheme_checks
import token_toy
import toy

from kd_jax.config import base
from kd_jax.config.knowledge import make_terms
from kd_jax.core.bind import bind, init_state
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.decoder_families import llama
from kd_jax.tasks import tokens
from kd_jax.types import Role

CONFIG = scheme_checks.config_module("language")
KEY = jax.random.key(3)
INPUTS = ("batch.tokens", "batch.segments")
PROMPT = 4


def decoder(width=8):
    return LinenModel(llama(token_toy.VOCABULARY, width, 1, 2, hidden=16, tied=True))


def sources():
    return {s.split: dataclasses.replace(s, end=6) for s in token_toy.splits(48)}


def parts(method="word", steps=8):
    roles = {"student": Role(decoder(), INPUTS, group="student"), "teacher": Role(decoder(12), INPUTS)}
    config = base()
    CONFIG.set_method(config, method, PROMPT)
    made = toy.parts(roles, make_terms(config.terms), steps, **sources())
    return dataclasses.replace(made, task=tokens.task()), dict(config.scheme.kwargs)


def begun(scheme, batch):
    bound, inputs = bind(scheme, toy.shapes(batch))
    state = jax.jit(lambda: init_state(bound, inputs, KEY, {}))()
    return bound, state, bound.prepare(batch, KEY, True) if bound.prepare else batch


def batch_of(prompt=0):
    batch = token_toy.batch()
    return batch | {"target": batch["label"]}
