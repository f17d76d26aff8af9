"""Encoders of `transformers` and of ours: the same weights give the same outputs, read and written."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from kd_jax.models.adapters import LinenModel
from kd_jax.models.language.pretrained import encoder_of, kind_of, load, save

KEY = jax.random.key(0)
CLASSES = {"hidden": "Model", "tokens": "ForMaskedLM", "classes": "ForSequenceClassification"}
EAGER = {"attn_implementation": "eager"}


def texts(pad, length=40, vocabulary=40):
    """Token ids [3, length] of texts of different lengths, padded."""
    tokens = np.random.default_rng(0).integers(4, vocabulary, (3, length)).astype(np.int32)
    for row, real in enumerate((length, length - length // 3, 2)):
        tokens[row, real:] = pad
    return tokens


def ours(module, params, tokens, *more):
    apply = functools.partial(LinenModel(module).apply, train=False, key=KEY, taps=("*",))
    return jax.device_get(jax.jit(lambda p, *x: apply(p, {}, *x)[0])(params, tokens, *more))


def outputs_of(network, tokens, mask):
    """(the main output, the hidden states after the embeddings and every layer, attention probabilities)"""
    with torch.no_grad():
        outputs = network.eval()(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            output_hidden_states=True,
            output_attentions=True,
        )
    main = outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state
    return main.numpy(), [h.numpy() for h in outputs.hidden_states], [a.numpy() for a in outputs.attentions]


def check(network, module, params, tokens, padding_too=False, atol=1e-4):
    """Compares outputs, states and attention; with `padding_too` what padding has of the latter two, and the scores."""
    mask = tokens != module.pad
    outputs, (main, hidden, attentions) = ours(module, params, tokens), outputs_of(network, tokens, mask)
    every, compared = ... if module.head == "classes" else mask, ... if padding_too else mask
    assert main[every].std() > 0.05
    np.testing.assert_allclose(outputs.logits[every], main[every], atol=atol)
    np.testing.assert_allclose(outputs.features["embeddings"][compared], hidden[0][compared], atol=atol)
    for i in range(module.depth):
        if i < module.depth - 1 or module.pre_norm is None:  # theirs is normed behind the last one
            tap = "convolution" if i == 0 and "convolution" in params else f"layer{i}"
            np.testing.assert_allclose(outputs.features[tap][mask], hidden[i + 1][mask], atol=atol)
        probabilities = outputs.features[f"layer{i}/attention/probabilities"]
        by_query = (x.swapaxes(1, 2)[compared] for x in (probabilities, attentions[i]))
        np.testing.assert_allclose(*by_query, atol=atol)
        if padding_too:
            scores = outputs.features[f"layer{i}/attention/scores"]
            np.testing.assert_allclose(jax.nn.softmax(jnp.asarray(scores)), probabilities, atol=1e-6)
            assert (scores[~np.broadcast_to(mask[:, None, None], scores.shape)] < -1e8).all()


def check_both_ways(family, prefix, sizes, head, folder, length=40, padding_too=False):
    """Reads a random network of `transformers` and writes it again: both agree with it, and so do its class names."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **sizes, num_labels=3, **EAGER)
    architecture = getattr(transformers, prefix + CLASSES[head])
    network = architecture(config)
    for value in network.parameters():  # biases start at 0 and scales at 1: a swapped pair would not be seen
        value.data += 0.3 * torch.randn_like(value)
    network.save_pretrained(folder / "theirs")
    module = encoder_of(str(folder / "theirs"), head=head, num_classes=3 if head == "classes" else 0)
    assert kind_of(module) == family
    params, _ = load(LinenModel(module), KEY, str(folder / "theirs"))
    tokens = texts(module.pad, length)
    check(network, module, params, tokens, padding_too)

    save(folder / "ours", module, params, class_names=("a", "b", "c") if head == "classes" else ())
    again, report = architecture.from_pretrained(folder / "ours", output_loading_info=True, **EAGER)
    assert not report["mismatched_keys"] and not report["unexpected_keys"]
    assert all(head == "hidden" and "pooler" in name for name in report["missing_keys"])
    check(again, module, params, tokens, padding_too)
    assert json.loads((folder / "ours" / "config.json").read_text())["model_type"] == family
    if head == "classes":
        assert again.config.id2label == {0: "a", 1: "b", 2: "c"}
