"""What helps to find out where the time goes: names in the compiled program, a trace, programs kept between runs."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import pytest
import toy
from two_stages import SETTINGS, SOURCES

from kd_jax.core.bind import bind, init_state, variable_shapes
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.models import connectors
from kd_jax.models.adapters import LinenModel
from kd_jax.schemes import offline
from kd_jax.system import progress, workdir
from kd_jax.system.log import DataWait
from kd_jax.train import fit, loop


def test_roles_and_terms_are_named_in_the_compiled_program():
    hint = dataclasses.replace(
        toy.kd(), inputs=("student.features:hidden",), targets=("teacher.features:hidden",), connector=connectors.auto
    )
    batch = toy.batch()
    parts = toy.parts(toy.roles(), {"ce": toy.ce(), "kd": toy.kd(), "hint": hint})
    scheme, inputs = bind(offline.build(parts), toy.shapes(batch))
    state = init_state(scheme, inputs, jax.random.key(0), {})
    step = jax.jit(make_train_step(scheme, scheme.stages[0]))
    text = step.lower(state, batch, hyper_of(scheme.stages[0]), jax.random.key(0)).compile().as_text()
    # jvp(x): on the way forward, transpose(jvp(x)): on the way back.
    for name in ("jvp(student)", "transpose(jvp(student))", "jvp(teacher)", "jvp(ce)", "jvp(kd)", "jvp(hint)"):
        assert f"/{name}/" in text, name
    assert "/jvp(hint/connector)/" in text and "/update_student/" in text
    assert "transpose(jvp(teacher))" not in text


def test_binding_a_scheme_again_traces_no_network_again(monkeypatch):
    traced = []
    for name in ("init", "apply"):
        method = getattr(LinenModel, name)
        monkeypatch.setattr(LinenModel, name, lambda *a, m=method, **k: traced.append(m.__name__) or m(*a, **k))
    scheme = offline.build(toy.parts(toy.roles(), {"ce": toy.ce(), "kd": toy.kd()}))
    bound, inputs = bind(scheme, toy.shapes(toy.batch()))
    assert sorted(traced) == ["apply", "apply", "init", "init"]
    again, same = bind(scheme, toy.shapes(toy.batch()))
    variable_shapes(again, same)
    assert len(traced) == 4 and same == inputs
    bind(scheme, toy.shapes({name: x[:4] for name, x in toy.batch().items()}))
    assert len(traced) == 8  # other shapes


@pytest.mark.parametrize("size", [1, 2])
def test_a_trace_of_the_steps_that_were_asked_for(tmp_path, size):
    scheme = offline.build(toy.parts(toy.roles(), {"ce": toy.ce()}, 6))
    settings = dataclasses.replace(SETTINGS, profile=(3, 4), steps_per_dispatch=size)
    loop.fit(scheme, SOURCES, settings, tmp_path, toy.mesh(), "traced")
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000 and b"train_step" in trace.read_bytes()


def test_a_trace_beyond_the_end_leaves_nothing(tmp_path):
    scheme = offline.build(toy.parts(toy.roles(), {"ce": toy.ce()}, 4))
    loop.fit(scheme, SOURCES, dataclasses.replace(SETTINGS, profile=(9, 12)), tmp_path, toy.mesh(), "traced")
    assert not (tmp_path / "profile").exists()


def test_compiled_programs_are_kept_where_the_config_says(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        workdir.cache_programs("")
        assert getattr(jax.config, names[0]) == before[names[0]]
        workdir.cache_programs(str(tmp_path / "programs"))
        jax.config.update(names[1], 0.0)
        jax.jit(lambda x: jnp.sin(x) + 3.25)(jnp.ones(7)).block_until_ready()
        assert list((tmp_path / "programs").glob("jit_*"))
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        workdir.compilation_cache.reset_cache()


def test_waiting_for_data_counts_while_the_devices_are_idle():
    now, busy = [0.0], [True]

    def batches():
        for number in range(4):
            now[0] += 2.0
            yield number

    wait = DataWait(lambda: now[0])
    for number in wait.around(batches(), lambda: not busy[0]):
        busy[0] = number < 2  # of the next one
        now[0] += 1.0
    assert wait.share() == pytest.approx(2 / 12) and wait.share() == 0.0


def test_a_run_that_waits_for_data_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    original = fit.train_batches

    def slow(*args, **kwargs):
        for batch in original(*args, **kwargs):
            time.sleep(0.05)
            yield batch

    monkeypatch.setattr(fit, "train_batches", slow)
    scheme = offline.build(toy.parts(toy.roles(), {"ce": toy.ce()}, 12))
    loop.fit(scheme, SOURCES, dataclasses.replace(SETTINGS, log_every=3, eval_every=12), tmp_path, toy.mesh(), "slow")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("slow")]
    assert len(lines) >= 4 and int(lines[-1].split("waiting for data ")[1].rstrip("%")) > 50
