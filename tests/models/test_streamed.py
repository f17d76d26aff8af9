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

from kd_jax.models import safetensors_io
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import decoder_families as families
from kd_jax.models.language import pretrained, pretrained_decoders
from kd_jax.models.language.pretrained_decoders import decoder_of, load, save
from kd_jax.models.safetensors_io import write_folder
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

ENCODER = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
}
RULES = ((r"layer\d.*kernel$", "model@-1"),)


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


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_encoders_are_read_to_their_places_too(family, dtype, tmp_path):
    """With a head that the folder lacks, and layers that it holds side by side."""
    (tmp_path / "config.json").write_text(json.dumps({**ENCODER, "model_type": family}))
    bare = pretrained.encoder_of(str(tmp_path), head="hidden")
    params = jax.jit(lambda key: bare.init(key, jnp.zeros((1, 2), jnp.int32), train=False)["params"])(KEY)
    pretrained.save(tmp_path, bare, jax.device_get(params))
    model = LinenModel(pretrained.encoder_of(str(tmp_path), head="classes", num_classes=3))
    mesh, fresh = toy.mesh(1, 2, 4), ("pooler", "head/")
    reading = Reading(lambda params: parallel.param_shardings(params, RULES, mesh, "teacher"), dtype)
    streamed, _ = pretrained.load(model, KEY, str(tmp_path), fresh, reading)
    whole, _ = pretrained.load(model, KEY, str(tmp_path), fresh)
    assert {str(x.dtype) for x in jax.tree.leaves(streamed)} == {dtype or "float32"}
    assert any(len({str(s.index) for s in x.addressable_shards}) > 1 for x in jax.tree.leaves(streamed))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b, a.dtype)), streamed, whole)


@pytest.mark.skipif(sys.platform != "linux", reason="measured by /proc")
def test_the_host_holds_no_more_than_a_file(tmp_path):
    """Beside the parameters themselves, which lie on the CPU's devices: less than 1.2 of the largest file."""
    module = families.llama(8192, width=512, depth=8, heads=8)
    written(module, tmp_path, max_shard_size=32 * MIB)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert len(sizes) >= 4 and sum(sizes) > 100 * MIB

    def beside(how):
        return int(finish([start_script("streamed_worker.py", tmp_path, how, 32 * MIB)])[0].splitlines()[-1])

    assert beside("streamed") < 1.2 * max(sizes) < beside("whole")
    assert beside("written") < 1.2 * max(sizes)


def test_what_is_written_is_gathered_file_by_file(tmp_path, monkeypatch):
    """Of parameters on several devices no more than a file's are on the host."""
    module, mesh = families.llama(40, width=16, depth=3, heads=4, kv_heads=2, scan=True), toy.mesh(1, 2, 4)
    params = jax.jit(lambda key: module.init(key, jnp.zeros((1, 2), jnp.int32))["params"])(KEY)
    held, most = [0], [0]

    def gathered(folder, named, rules, config, **options):
        def counted(leaf):
            def made():
                held[0] += leaf.nbytes
                most[0] = max(most[0], held[0])
                return leaf.made()

            return leaf._replace(made=made)

        write_folder(folder, {path: counted(leaf) for path, leaf in named.items()}, rules, config, **options)

    def saved(values, path, **options):
        assert held[0] == sum(x.nbytes for x in values.values())
        held[0] = 0
        save_file(values, path, **options)

    monkeypatch.setattr(pretrained_decoders, "write_folder", gathered)
    monkeypatch.setattr(safetensors_io, "save_file", saved)
    save(tmp_path / "host", module, jax.device_get(params), max_shard_size=9000)
    with jax.set_mesh(mesh):
        cut = jax.device_put(params, parallel.param_shardings(params, ("fsdp+tensor",), mesh, "student"))
    save(tmp_path / "cut", module, cut, max_shard_size=9000)
    assert 0 < most[0] <= 9000 < sum(x.nbytes for x in jax.tree.leaves(params)) / 3
    for path in (tmp_path / "host").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()
