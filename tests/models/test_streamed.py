"""Weights read tensor by tensor to where they lie, and written in several files."""

import json
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import toy
from safetensors.numpy import load_file, save_file
from several import finish, start_script

from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.pretrained_decoders import decoder_of, load, save
from kd_jax.models.streamed import Reading
from kd_jax.system import parallel

KEY, MIB = jax.random.key(0), 2**20
SMALL = {
    "llama": families.llama(40, width=16, depth=3, heads=4, kv_heads=2),
    "gpt2": families.gpt2(40, width=16, depth=3, heads=4, max_length=16),
    "phi3": families.llama(40, width=16, depth=3, heads=2, kv_heads=1, rotary_share=0.5),
    "mixtral": families.llama(40, width=16, depth=3, heads=4, experts=4, experts_used=2),
    "gpt_oss": families.gpt_oss(40, width=16, depth=3, heads=4, hidden=16, experts=2, experts_used=2),
}


def written(module, folder, **options):
    params = jax.jit(lambda key: module.init(key, jnp.zeros((1, 2), jnp.int32))["params"])(KEY)
    save(folder, module, params, **options)
    return params


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("family", SMALL)
def test_what_is_read_to_its_place_is_what_is_read_whole(family, scan, tmp_path):
    written(SMALL[family], tmp_path, max_shard_size=9000)
    files = {path.name for path in tmp_path.glob("*.safetensors")}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(files) > 3 and {*index["weight_map"].values()} == files
    assert max(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 11000
    model = LinenModel(decoder_of(str(tmp_path), scan=scan))
    whole, _ = load(model, KEY, str(tmp_path))
    streamed, _ = load(model, KEY, str(tmp_path), reading=Reading())
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(streamed))
    jax.tree.map(np.testing.assert_array_equal, whole, streamed)


def test_every_device_gets_its_share(tmp_path):
    written(SMALL["llama"], tmp_path)
    model, mesh = LinenModel(decoder_of(str(tmp_path), scan=True)), toy.mesh(1, 2, 4)
    reading = Reading(lambda params: parallel.param_shardings(params, ("fsdp+tensor",), mesh, "teacher"))
    params, _ = load(model, KEY, str(tmp_path), reading=reading)
    up = params["layers"]["mlp"]["up"]["kernel"]
    assert {shard.data.shape for shard in up.addressable_shards} == {(3, 16 // 2, up.shape[-1] // 4)}
    jax.tree.map(np.testing.assert_array_equal, load(model, KEY, str(tmp_path))[0], params)


def test_tensors_stay_in_their_type_or_take_one(tmp_path):
    written(SMALL["llama"], tmp_path)
    path = tmp_path / "model.safetensors"
    half = {name: value.astype(ml_dtypes.bfloat16) for name, value in load_file(path).items()}
    save_file(half, path)
    model = LinenModel(decoder_of(str(tmp_path)))
    types = {"": "float32", "file": "bfloat16", "float16": "float16"}
    for dtype, expected in types.items():
        params, _ = load(model, KEY, str(tmp_path), reading=Reading(dtype=dtype))
        assert {str(x.dtype) for x in jax.tree.leaves(params)} == {expected}
    values = load(model, KEY, str(tmp_path))[0]["layer1"]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(values, half["model.layers.1.mlp.up_proj.weight"].T.astype(np.float32))


def test_what_is_missing_is_said_before_anything_is_read(tmp_path):
    written(SMALL["llama"], tmp_path)
    model = LinenModel(decoder_of(str(tmp_path), qk_norm=True))
    with pytest.raises(ValueError, match=r"missing: 'model.layers.0.self_attn.q_norm.weight'"):
        load(model, KEY, str(tmp_path), reading=Reading())


@pytest.mark.skipif(sys.platform != "linux", reason="measured by /proc")
def test_the_host_holds_no_more_than_a_file(tmp_path):
    """Beside the parameters themselves, which lie on the CPU's devices: less than 1.2 of the largest file."""
    module = families.llama(8192, width=512, depth=8, heads=8)
    written(module, tmp_path, max_shard_size=32 * MIB)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert len(sizes) >= 4 and sum(sizes) > 100 * MIB

    def beside(how):
        return int(finish([start_script("streamed_worker.py", tmp_path, how)])[0].splitlines()[-1])

    assert beside("streamed") < 1.2 * max(sizes) < beside("whole")
