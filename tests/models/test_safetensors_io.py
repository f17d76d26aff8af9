"""Folders of safetensors to trees of parameters and back, and what is said where names and shapes do not fit."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from kd_jax.models.safetensors_io import Rule, Tensors, dense, norm, read_config, read_params, write_folder

RULES = (
    Rule("body.words.weight", "words/embedding"),
    *dense("body.layer.{}.wide", "layer{}/mlp1"),
    *norm("body.layer.{}.norm", "layer{}/norm"),
    *dense("score", "head", bias=False),
)
SHAPES = {"words/embedding": (5, 4), "head/kernel": (4, 2)}
for i in (0, 11):
    SHAPES |= {f"layer{i}/mlp1/kernel": (4, 3), f"layer{i}/mlp1/bias": (3,)}
    SHAPES |= {f"layer{i}/norm/{n}": (4,) for n in ("scale", "bias")}


def nested(flat):
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return tree


def params(dtype=np.float32):
    rng = np.random.default_rng(0)
    return nested({path: rng.normal(size=shape).astype(dtype) for path, shape in SHAPES.items()})


def shapes(dtype=np.float32):
    return nested({path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in SHAPES.items()})


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_what_is_written_is_read_back(tmp_path):
    write_folder(tmp_path, params(), RULES, {"model_type": "toy"})
    assert read_config(tmp_path) == {"model_type": "toy"}
    tensors = Tensors(tmp_path)
    assert set(tensors) > {"body.words.weight", "body.layer.11.wide.weight", "score.weight"}
    assert tensors.shape("body.layer.0.wide.weight") == (3, 4)
    np.testing.assert_array_equal(tensors["score.weight"], params()["head"]["kernel"].T)
    same(read_params(tmp_path, RULES, shapes()), params())


def test_a_bare_body_lacks_the_prefix(tmp_path):
    body = {k: v for k, v in params().items() if k != "head"}
    write_folder(tmp_path, body, RULES, {}, strip="body.")
    assert "layer.0.wide.bias" in Tensors(tmp_path)
    same(read_params(tmp_path, RULES, shapes(), prefix="body.", fresh=("^head/",)), body)


def test_names_of_old_files(tmp_path):
    old_rules = [Rule(r.theirs.replace("norm.weight", "norm.gamma"), *r[1:]) for r in RULES]
    write_folder(tmp_path, params(), old_rules, {})
    with pytest.raises(ValueError, match="missing: 'body.layer.0.norm.weight'.*norm.gamma"):
        read_params(tmp_path, RULES, shapes())
    same(read_params(tmp_path, RULES, shapes(), old={r"norm\.gamma$": "norm.weight"}), params())


def test_types_are_those_of_the_model(tmp_path):
    write_folder(tmp_path, params(ml_dtypes.bfloat16), RULES, {})
    read = read_params(tmp_path, RULES, shapes())
    assert {x.dtype for x in jax.tree.leaves(read)} == {np.dtype(np.float32)}
    same(read, jax.tree.map(lambda x: x.astype(np.float32), params(ml_dtypes.bfloat16)))


def test_several_files_are_one_folder(tmp_path):
    write_folder(tmp_path, params(), RULES, {})
    whole = dict(Tensors(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    parts = {f"model-{i}.safetensors": list(whole)[i::2] for i in range(2)}
    for name, names in parts.items():
        save_file({n: whole[n] for n in names}, tmp_path / name)
    index = {"weight_map": {n: name for name, names in parts.items() for n in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    same(read_params(tmp_path, RULES, shapes()), params())
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match="names files that are not there: model-1.safetensors"):
        Tensors(tmp_path)


def test_all_that_does_not_fit_is_listed_at_once(tmp_path):
    wrong = params()
    del wrong["layer0"]["norm"]
    wrong["layer0"]["mlp1"]["kernel"] = np.zeros((4, 9), np.float32)
    wrong["layer2"] = {"mlp1": {"bias": np.zeros(3, np.float32)}}
    write_folder(tmp_path, wrong, RULES, {})
    with pytest.raises(ValueError) as error:
        read_params(tmp_path, RULES, shapes())
    for part in (
        "missing: 'body.layer.0.norm.weight' (here 'layer0/norm/scale')",
        "wrong shape: 'body.layer.0.wide.weight' has (9, 4), 'layer0/mlp1/kernel' needs (3, 4)",
        "unexpected: 'body.layer.2.wide.bias'",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="unexpected: 'body.layer.2.wide.bias'"):
        read_params(tmp_path, RULES, shapes(), fresh=("layer0",), ignore=("layer.0",))


def test_a_parameter_without_a_name_outside_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no rule for the parameter 'layer0/mpl1/kernel'.*'layer{}/mlp1/kernel'"):
        write_folder(tmp_path, {"layer0": {"mpl1": {"kernel": np.zeros((4, 3))}}}, RULES, {})


def test_what_is_no_model_is_said(tmp_path):
    (tmp_path / "other.bin").touch()
    with pytest.raises(ValueError, match="has neither model.safetensors nor .*it has other.bin"):
        Tensors(tmp_path)
    with pytest.raises(ValueError, match="no config.json"):
        read_config(tmp_path)
