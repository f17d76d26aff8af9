"""Mixtral and Qwen3-MoE against PyTorch `transformers`: read, written, differentiated, and cut over a mesh."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import toy  # noqa: E402
from published_folders import folder  # noqa: E402

from kd_jax.models import from_teacher  # noqa: E402
from kd_jax.models.adapters import LinenModel  # noqa: E402
from kd_jax.models.language import published  # noqa: E402
from kd_jax.models.language.decoder import decoding  # noqa: E402
from kd_jax.models.language.decoder_experts import Act, Weights, by_all, by_their_own  # noqa: E402
from kd_jax.models.language.generation import generate  # noqa: E402
from kd_jax.models.language.pretrained_decoders import decoder_of, load, save  # noqa: E402
from kd_jax.models.streamed import Reading  # noqa: E402
from kd_jax.system import parallel  # noqa: E402

KEY = jax.random.key(0)
SIZES = dict(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=24,
    max_position_embeddings=64,
    num_experts_per_tok=2,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
QWEN = {"num_experts": 8, "moe_intermediate_size": 12, "head_dim": 8}
# name: (class, what config says beside the sizes, changes of ours)
CASES = {
    "mixtral": ("Mixtral", {"num_local_experts": 4, "sliding_window": 5}, {"scan": True}),
    "qwen3_moe": ("Qwen3Moe", {**QWEN, "norm_topk_prob": True}, {"scan": True}),
    "qwen3_moe_mixed": ("Qwen3Moe", {**QWEN, "num_hidden_layers": 3, "mlp_only_layers": [1]}, {}),
}


def theirs(name, folder):
    torch.manual_seed(0)
    kind, more, _ = CASES[name]
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **more})
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for value in network.parameters():
        value.data += 0.2 * torch.randn_like(value)
    network.save_pretrained(folder)
    return network


def text(length=12):
    return np.random.default_rng(0).integers(3, 40, (2, length)).astype(np.int32)


@pytest.mark.parametrize("name", CASES)
def test_random_networks_agree_and_return(name, tmp_path):
    network = theirs(name, tmp_path / "theirs")
    module = decoder_of(str(tmp_path / "theirs"), **CASES[name][2])
    params, _ = load(LinenModel(module), KEY, str(tmp_path / "theirs"))
    tokens = text()
    logits, gradient = jax.jit(
        lambda p: (
            module.apply({"params": p}, tokens),
            jax.grad(lambda p: (module.apply({"params": p}, tokens) ** 2).mean())(p),
        )
    )(params)
    expected = network(torch.tensor(tokens).long()).logits
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-4)
    (expected**2).mean().backward()
    router = network.model.layers[0].mlp.gate.weight.grad.numpy().T
    layer = jax.tree.map(lambda x: x[0], gradient["layers"]) if module.options.scan else gradient["layer0"]
    np.testing.assert_allclose(layer["mlp"]["router"]["kernel"], router, atol=1e-4)
    down = network.model.layers[0].mlp.experts.down_proj.grad.numpy().swapaxes(1, 2)
    np.testing.assert_allclose(layer["mlp"]["experts"]["down"], down, atol=1e-4)

    save(tmp_path / "ours", module, params, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert type(again) is type(network)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        np.testing.assert_allclose(again.eval()(torch.tensor(tokens).long()).logits, expected.detach(), atol=1e-5)


def test_greedy_texts_agree(tmp_path):
    network = theirs("mixtral", tmp_path)
    module = decoder_of(str(tmp_path), scan=True)
    params, _ = load(LinenModel(module), KEY, str(tmp_path), reading=Reading())
    prompt = text(4)
    run = jax.jit(lambda p: generate(decoding(module), p, prompt, prompt > 0, KEY, length=6, temperature=0, end=-1))
    with torch.no_grad():
        fixed = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 39}
        expected = network.generate(torch.tensor(prompt).long(), **fixed).numpy()[:, 4:]
    np.testing.assert_array_equal(run(params).tokens, expected)


def test_experts_lie_on_several_devices_and_compute_the_same(tmp_path):
    theirs("qwen3_moe", tmp_path)
    module = decoder_of(str(tmp_path), scan=True)
    params, _ = load(LinenModel(module), KEY, str(tmp_path))
    tokens = text()

    def loss(p, tokens):
        return (module.apply({"params": p}, tokens) ** 2).mean()

    expected, gradient = jax.jit(jax.value_and_grad(loss))(params, tokens)
    mesh = toy.mesh(2, 1, 4)
    with jax.set_mesh(mesh):
        places = parallel.param_shardings(params, ("tensor",), mesh, "student")
        cut = jax.device_put(params, places)
        gate = cut["layers"]["mlp"]["experts"]["gate"]
        assert gate.addressable_shards[0].data.shape == (2, 2, 16, 12)  # of 8 experts
        rows = jax.device_put(tokens, parallel.batch_sharding(mesh))
        value, other = jax.jit(jax.value_and_grad(loss), out_shardings=(None, places))(cut, rows)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, other)


@pytest.mark.parametrize("biased", [False, True])
def test_both_ways_and_many_runs_at_once_agree(biased):
    keys = jax.random.split(KEY, 6)
    shapes = (2, 4, 6, 8), (2, 4, 6, 8), (2, 4, 8, 6), *(((2, 4, 8), (2, 4, 8), (2, 4, 6)) if biased else ())
    weights = Weights(*(jax.random.normal(jax.random.fold_in(KEY, i), s) for i, s in enumerate(shapes)))
    x, chosen = (
        jax.random.normal(keys[3], (2, 7, 6)),
        jax.random.randint(keys[4], (2, 7, 2), 0, 2) + jnp.array([[[0, 2]]]),
    )
    shares = jax.random.uniform(keys[5], (2, 7, 2))

    def gradients(way):
        def loss(x, shares, weights, chosen):
            return (way(Act("silu", limit=1.0 if biased else 0.0, slope=1.7), x, chosen, shares, weights) ** 2).sum()

        return jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1, 2))))(x, shares, weights, chosen)

    both = (gradients(functools.partial(way)) for way in (by_their_own, by_all))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *both)


def test_layers_of_a_sparse_teacher_leave_as_a_folder(tmp_path):
    source = str(folder(tmp_path / "teacher", "qwen3_moe", depth=4))
    whole, student = (LinenModel(published.decoder(source, layers=layers)) for layers in (0, 2))
    teacher = load(whole, KEY, source)
    params, _ = from_teacher.layers(student, KEY, teacher)
    published.save(tmp_path / "student", source, student.module, params)
    tokens = text()
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student", attn_implementation="eager")
    logits = jax.jit(lambda p: student.module.apply({"params": p}, tokens))(params)
    with torch.no_grad():
        np.testing.assert_allclose(logits, network.eval()(torch.tensor(tokens).long()).logits, atol=1e-4)
    assert network.config.mlp_only_layers == [1]  # layers 0 and 2, the second of which was dense


def test_what_does_not_fit(tmp_path):
    config = {**SIZES, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="experts_used=5: a token has from 1 to experts=4"):
        decoder_of(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_experts_per_tok": 2, "mlp_only_layers": [1]}))
    with pytest.raises(ValueError, match=r"dense_layers=\(1,\) are not as the others"):
        decoder_of(str(tmp_path), scan=True)
