"""Sharded networks: what one device holds, what devices send one another in a step, where states and teachers are made.

XLA's own analysis of the compiled step is asked, so nothing here depends on how fast or large this machine is.
"""

import collections
import re

import chex
import jax
import numpy as np
import pytest
import toy

from kd_jax.core.bind import bind, init_state
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.models.adapters import LinenModel
from kd_jax.models.vision.vit import ViT
from kd_jax.schemes import offline
from kd_jax.system import parallel
from kd_jax.system.checkpoint import Checkpoints, load_tree, save_tree
from kd_jax.train import loop
from kd_jax.types import Role

KEY, DEPTH, BATCH = jax.random.key(0), 2, 512
LEAVES = 12 * DEPTH + 8  # a block has 2 norms and 4 dense layers of 2 arrays; patches, norm, head, 2 tables


def vit(width: int, depth: int = DEPTH) -> LinenModel:
    return LinenModel(ViT(num_classes=toy.CLASSES, patch=4, width=width, depth=depth, heads=4))


def scheme(student: int = 16, teacher: int = 64, depth: int = DEPTH, **changes):
    roles = {"student": Role(vit(student, depth), group="student"), "teacher": Role(vit(teacher, depth), **changes)}
    return offline.build(toy.parts(roles, {"ce": toy.ce(), "kd": toy.kd()}))


def bound(scheme, batch_size: int = BATCH):
    shapes = {"image": ((8, 8, 1), np.float32), "label": ((), np.int32), "labelled": ((), np.bool_)}
    batch = {k: jax.ShapeDtypeStruct((batch_size, *shape), dtype) for k, (shape, dtype) in shapes.items()}
    return *bind(scheme, batch), batch


def compiled(mesh, rules, **widths):
    """(the train step on `mesh`, compiled for shapes only, and the shapes of its state)."""
    built, inputs, batch = bound(scheme(**widths))
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda k: init_state(built, inputs, k, {}), KEY)
        shardings = parallel.state_shardings(state, rules, mesh)
        state, batch = (
            jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), *pair)
            for pair in ((state, shardings), (batch, {k: parallel.batch_sharding(mesh) for k in batch}))
        )
        step = jax.jit(make_train_step(built, built.stages[0]), donate_argnums=0, out_shardings=(shardings, None))
        return step.lower(state, batch, hyper_of(built.stages[0]), KEY).compile(), state


def held(tree) -> int:
    """Bytes of a tree of arrays, or of their shapes, on one device."""
    leaves = [x for x in jax.tree.leaves(tree)]
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in leaves)


def collectives(program) -> dict[str, list[str]]:
    """{kind: types of the arrays that operations of this kind return}; one operation may return several."""
    shapes: dict[str, list[str]] = collections.defaultdict(list)
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for line in program.as_text().splitlines():
        if found_kind := re.search(rf"= (.+?) ({kinds})(-start)?\(", line):
            shapes[found_kind[2]] += re.findall(r"[a-z]+\d+\[[\d,]*\]", found_kind[1])
    return shapes


BOTH = {"student": ("fsdp",), "teacher": ("fsdp",)}


@pytest.fixture(scope="module")
def whole():
    return compiled(toy.mesh(8), {})


@pytest.fixture(scope="module")
def fsdp():
    return compiled(toy.mesh(1, 8), BOTH)


def activations(types: list[str], width: int, rows: int) -> int:
    return types.count(f"f32[{rows},5,{width}]")


def test_a_replicated_step_sums_its_gradients_once(whole):
    program, _ = whole
    moved = collectives(program)
    assert set(moved) == {"all-reduce"}
    shapes = [t for t in moved["all-reduce"] if t != "f32[]"]
    assert len(shapes) == LEAVES  # every gradient of the student, none of the teacher; the rest are sums of metrics
    assert len(re.findall(r" all-reduce(?:-start)?\(", program.as_text())) == 2  # the counts, then all else together


def test_memory_falls_with_the_devices_that_share_a_network(whole, fsdp):
    (all_of_it, state), (eighth, _) = whole, fsdp
    bytes_of = [p.memory_analysis().argument_size_in_bytes for p in (all_of_it, eighth)]
    batch = BATCH // 8 * (8 * 8 * 4 + 4 + 1)
    total, share = (b - batch for b in bytes_of)
    assert abs(total - held(state)) < 0.01 * total  # 3 student trees (parameters, momentum) and one of the teacher
    assert share < total / 8 * 1.02  # what 8 does not divide, biases of 3 classes, stays whole
    analysis = eighth.memory_analysis()
    assert analysis.alias_size_in_bytes > 0.98 * share  # donated: the new state lies where the old one lay


def test_fsdp_gathers_every_parameter_once_forward(fsdp):
    moved = collectives(fsdp[0])
    sharded = LEAVES - 1  # the head's bias of 3 classes is whole
    norms = 2 * DEPTH + 1  # the backward pass gathers the student's scales of LayerNorm a second time, nothing else
    assert len(moved["all-gather"]) == 2 * sharded + norms
    # XLA's CPU compiler leaves gradients as one all-reduce of which every device keeps its part; those of GPU and TPU
    # turn it into reduce-scatters. No activation crosses devices.
    assert set(moved) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert not any(t.startswith(f"f32[{BATCH}") for types in moved.values() for t in types)


def test_the_teacher_alone_is_sharded_by_its_own_rules(whole):
    program, state = compiled(toy.mesh(1, 8), {"teacher": ("fsdp",)})
    assert len(collectives(program)["all-gather"]) == LEAVES - 1  # all of the teacher: it has no backward pass
    size = sum(x.size for x in jax.tree.leaves(state.frozen)) * 4
    before, after = (p.memory_analysis().argument_size_in_bytes for p in (whole[0], program))
    assert 0.86 < (before - after) / size <= 0.875


def test_tensor_parallel_layers_sum_activations_twice_a_block():
    program, state = compiled(toy.mesh(2, 1, 4), {"student": ("tensor",), "teacher": ("tensor",)})
    moved = collectives(program)
    sums = [t for t in moved["all-reduce"] if re.match(r"f32\[\d+,5,\d+\]", t)]
    assert activations(sums, 64, BATCH // 2) == 2 * DEPTH  # teacher: after attention, after the MLP
    assert activations(sums, 16, BATCH // 2) == 2 * 2 * DEPTH  # student: and the same backward
    assert len(sums) == 6 * DEPTH and not moved["all-gather"]
    kernels = [x for p, x in jax.tree_util.tree_leaves_with_path(state.frozen) if "block" in str(p) and x.ndim == 2]
    assert len(kernels) == 4 * DEPTH and held(kernels) == sum(x.size for x in kernels) * 4 / 4


def test_a_teacher_larger_than_the_budget_of_a_device_runs_in_shards(tmp_path):
    """Made, written, read back and distilled from in shards of an eighth; the result is that of the whole teacher."""
    mesh, budget = toy.mesh(1, 8), 320_000
    images = np.random.default_rng(0).random((24, 8, 8, 1), np.float32)
    data = toy.source(24).__class__(**{**toy.source(24).__dict__, "images": images, "image_shape": (8, 8, 1)})
    sources, settings = {"train": data, "validation": None, "test": data}, loop.Settings(8, 0, 2, 4, 8, rules=BOTH)
    built, inputs, _ = bound(scheme(16, 128, 1), 8)
    shapes = jax.eval_shape(lambda k: init_state(built, inputs, k, {}), KEY).frozen["teacher"]
    with jax.set_mesh(mesh):
        places = parallel.param_shardings(shapes[0], ("fsdp",), mesh, "teacher"), {}
        init = jax.jit(lambda k: vit(128, 1).init(k, images[:8]), out_shardings=places).lower(KEY).compile()
    size = sum(x.size for x in jax.tree.leaves(shapes)) * 4
    assert size > 2.5 * budget  # it does not fit
    assert init.memory_analysis().output_size_in_bytes + init.memory_analysis().temp_size_in_bytes < budget
    save_tree(tmp_path / "teacher", {"params": init(KEY)[0]})

    template = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes[0], places[0])
    params = load_tree(tmp_path / "teacher", {"params": template})["params"]
    chex.assert_trees_all_equal(params, load_tree(tmp_path / "teacher", {"params": shapes[0]})["params"])
    assert held(params) < budget

    run = loop.begin(scheme(16, 128, 1, initial=(params, {})), sources, settings, mesh, Checkpoints(tmp_path / "c", 1))
    assert held(run.state) < budget
    kernel = run.state.frozen["teacher"][0]["head"]["kernel"]
    assert kernel is params["head"]["kernel"]  # taken as it lies, not copied
    whole = jax.tree.map(np.asarray, params)
    results = [
        loop.fit(scheme(16, 128, 1, initial=(p, {})), sources, settings, tmp_path / name, m, "toy")["last"]["test"]
        for name, p, m in (("shards", params, mesh), ("one", whole, toy.mesh()))
    ]
    np.testing.assert_allclose(results[0]["student"]["nll"], results[1]["student"]["nll"], rtol=1e-4)
    assert not params["head"]["kernel"].is_deleted()  # the next training of the run takes it too


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (("fdsp",), "'fsdp'"),
        ((("kernel", "model@last"),), "after @ stands a dimension"),
        ((("kernel", "modle@-1"),), "names mesh axis 'modle'"),
        ((("kernl", "fsdp"),), "match no parameter of 'teacher'"),
        (("tensor",), "match no parameter of 'teacher'"),  # no layer of this network has a name of a transformer's
    ],
)
def test_rules_that_say_nothing_are_an_error(rules, message):
    params = {"hidden": {"kernel": jax.ShapeDtypeStruct((8, 8), np.float32)}}
    with pytest.raises(ValueError, match=message):
        parallel.param_shardings(params, rules, toy.mesh(2, 2, 2), "teacher")


def test_a_rule_may_name_several_axes_and_dimensions():
    def spec(rule, *shape):
        params = {"kernel": jax.ShapeDtypeStruct(shape, np.float32)}
        resolved = parallel.param_shardings(params, (("kernel", rule),), toy.mesh(2, 2, 2), "x")["kernel"].spec
        return tuple(resolved)

    assert spec("fsdp", 4, 8) == (None, "fsdp") and spec("fsdp@0", 4, 8) == ("fsdp",) and spec("fsdp", 3) == ()
    assert spec("model@-1+fsdp", 4, 8) == ("fsdp", "model")
    assert spec("model@-2+fsdp", 6, 4, 8) == (None, "model", "fsdp")
    assert spec((None, ("data", "fsdp")), 3, 8) == (None, ("data", "fsdp"))
