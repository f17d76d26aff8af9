"""Every network leaves the house in every format, and answers there what it answers in JAX."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import DECODERS, ENCODERS, IMAGES, LENGTH, VOCABULARY, examples_of, student_of
from flax import nnx
from safetensors.numpy import load_file

from kd_jax.export import decoder, deployed, greedy, huggingface, litert, onnx, parity, safetensors, stablehlo
from kd_jax.export.network import Refused, shaped
from kd_jax.export.run import export
from kd_jax.models.language.generation import generate

NEEDS = {"stablehlo": (), "onnx": ("jax2onnx", "onnxruntime"), "litert": ("litert_converter", "ai_edge_litert")}
MODULES = {"stablehlo": stablehlo, "onnx": onnx, "litert": litert}
each_format = pytest.mark.parametrize("format", MODULES)


def written(format, network, folder):
    for package in NEEDS[format]:
        pytest.importorskip(package)
    return MODULES[format].read(MODULES[format].write(*network, folder))


def differs(run, inputs, expected):
    return parity.compare(run, inputs, [expected], None)[0].largest_difference


@each_format
@pytest.mark.parametrize("name", IMAGES)
def test_images(name, format, tmp_path):
    student = student_of(name)
    network, examples = deployed.with_preparation(student), examples_of(student)
    run, inputs = written(format, network, tmp_path), shaped(network[3], examples.raw)
    expected = student.logits(examples.raw)
    assert np.ptp(expected) > 1e-3, "an answer that is the same for every example proves nothing"
    assert differs(run, inputs, expected) < 1e-4
    assert differs(run, [x[:1] for x in inputs], expected[:1]) < 1e-4, "of a single example"


@each_format
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name, format, tmp_path):
    """Padding (token 0) is masked; the length stays open where the format can leave it so."""
    student = student_of(name)
    network, examples = deployed.with_preparation(student), examples_of(student)
    tokens = np.asarray(examples.raw["tokens"])
    tokens[:, -2:] = 0
    run = written(format, network, tmp_path)
    assert differs(run, [tokens], student.logits({"tokens": tokens})) < 1e-4
    if format == "stablehlo":
        longer = np.concatenate([tokens, np.zeros_like(tokens)], 1)
        expected = np.asarray(
            deployed.with_preparation(student)[0]
            .apply(network[1], {}, longer, train=False, key=jax.random.key(0))[0]
            .logits
        )
        assert differs(run, [longer], expected) < 1e-5


@each_format
@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name, format, tmp_path):
    """Step by step with the cache, the file answers what the whole network answers; the greedy loop writes the same."""
    student = student_of(name)
    tokens = np.asarray(examples_of(student, 2).raw["tokens"]) % VOCABULARY
    network = decoder.stepping(student, LENGTH)
    run = written(format, network, tmp_path)
    unrolled = decoder.unrolled(run, network[3])
    assert differs(unrolled, [tokens], decoder.whole(student)(tokens)[0]) < 1e-4
    prompt = tokens[:1, :2]
    wanted = generate(
        decoder.decoding(student.model.module), student.params, prompt, None, jax.random.key(0), length=4, temperature=0
    )
    cache = decoder.empty(network[3])[2:]
    assert greedy.greedy(run, cache, prompt[0].tolist(), LENGTH, 4) == wanted.tokens[0].tolist()
    with pytest.raises(ValueError, match="at most 6 in all"):
        greedy.greedy(run, cache, prompt[0].tolist(), LENGTH, 5)


@pytest.mark.parametrize("name", ["cnn", "linen", "classes"])
def test_safetensors(name, tmp_path):
    student, path = student_of(name), tmp_path / "model.safetensors"
    examples = examples_of(student)
    assert safetensors.write(student, tmp_path) == path
    again = safetensors.load(path)
    np.testing.assert_array_equal(again.logits(examples.raw), student.logits(examples.raw))
    assert len(load_file(path)) == len(jax.tree.leaves((student.params, student.stats)))


@pytest.mark.parametrize("name", ["classes", "llama", "vit"])
def test_huggingface(name, tmp_path):
    student = student_of(name)
    examples = examples_of(student)
    run = huggingface.read(huggingface.write(student, tmp_path), student)
    assert differs(run, [*examples.raw.values()], student.logits(examples.raw)) < 1e-5
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"]


def test_preparation_is_inside_or_left_out(tmp_path):
    student = student_of("mlp")
    examples = examples_of(student)
    run = stablehlo.read(stablehlo.write(*deployed.without_preparation(student, examples.raw), tmp_path))
    prepared = (np.asarray(examples.raw["image"], np.float32) / 255 - 0.5) / 0.25
    assert differs(run, [prepared], student.logits(examples.raw)) < 1e-5


def test_int8(tmp_path):
    pytest.importorskip("onnxruntime")
    student = student_of("mlp", shape=(16, 16, 1))
    records = export(student, ["onnx"], tmp_path / "out", examples_of(student, 64), int8=True, measure=False)
    sizes = {record["format"]: record["bytes"] for record in records}
    assert sizes.keys() == {"onnx", "onnx-int8-dynamic", "onnx-int8-static"}
    assert all((tmp_path / "out" / record["file"]).stat().st_size == record["bytes"] for record in records)
    assert sizes["onnx-int8-dynamic"] < sizes["onnx"]


@pytest.mark.parametrize("name", ["classes", "vit"])
def test_int8_of_a_transformer_has_its_kernels_in_whole_numbers(name, tmp_path):
    """jax2onnx writes dense layers on [batch, length, width] as Einsum, which the quantiser leaves in floats."""
    for package in NEEDS["onnx"]:
        pytest.importorskip(package)
    student = student_of(name)
    network = deployed.with_preparation(student)
    path = onnx.quantise(onnx.write(*network, tmp_path), "dynamic", ())
    import onnx as onnx_package

    kinds = [node.op_type for node in onnx_package.load(path).graph.node]
    layers = sum(
        leaf.ndim >= 2 for leaf in jax.tree.leaves(student.params["layer0" if name == "classes" else "block0"])
    )
    assert kinds.count("MatMulInteger") >= layers
    examples = examples_of(student)
    inputs = shaped(network[3], examples.raw)
    answers = onnx.read(path)(*inputs)[0]
    assert np.corrcoef(answers.ravel(), student.logits(examples.raw).ravel())[0, 1] > 0.98


def test_what_the_record_says(tmp_path):
    student = student_of("mlp")
    records = export(student, ["stablehlo", "safetensors"], tmp_path / "out", examples_of(student))
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == records
    for record in records:
        assert record["bytes"] == (tmp_path / "out" / record["file"]).stat().st_size
        assert record["parity"]["largest_difference"] < 1e-5 and record["parity"]["share_equal"] == 1
        assert record["latency_ms"].keys() == record["latency_spread_ms"].keys() == {"1", "64"}
        assert (
            0 < record["latency_spread_ms"]["1"][0] <= record["latency_ms"]["1"] <= record["latency_spread_ms"]["1"][1]
        )
        assert record["runtime"] == "jax" and record["file"] in record["how_to_load"]
    assert records[0]["peak_memory_bytes"] > 1e7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"], "nothing half-written stays"
    export(student, ["safetensors"], tmp_path / "out", examples_of(student), measure=False)
    assert [r["format"] for r in json.loads((tmp_path / "out" / "export.json").read_text())] == [
        "stablehlo",
        "safetensors",
    ]


@each_format
def test_what_a_converter_refuses_is_named(format, tmp_path):
    for package in NEEDS[format]:
        pytest.importorskip(package)
    model, params, stats, inputs = deployed.with_preparation(student_of("mlp"))

    def asks_python(params, x):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((1, 4), "float32"), model.apply_fn(params, x[:1]))

    converter = {"stablehlo": "jax.export", "onnx": "jax2onnx", "litert": "litert-converter"}[format]
    with pytest.raises(Refused, match=f"{format}: {converter} cannot convert .*call") as raised:
        MODULES[format].write(type(model)(model.init_fn, asks_python), params, stats, inputs, tmp_path)
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_a_conversion_leaves_jax_and_flax_as_they_were(tmp_path):
    owners = (jnp, jax.lax, jax.nn, nn, nn.Dense, nnx, nnx.Linear)
    before = [dict(vars(owner)) for owner in owners]
    written("onnx", deployed.with_preparation(student_of("cnn")), tmp_path)
    for owner, names in zip(owners, before, strict=True):
        assert not [name for name, value in names.items() if callable(value) and vars(owner)[name] is not value]
