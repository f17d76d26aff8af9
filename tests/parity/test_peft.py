"""Adapters in PEFT: on their base they are the merged network, for GPT-2's joint projection too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from kd_jax.models.language import decoder_families as families  # noqa: E402
from kd_jax.models.language.peft import save as save_adapters  # noqa: E402
from kd_jax.models.language.pretrained_decoders import save  # noqa: E402
from kd_jax.models.lora import lora  # noqa: E402

SMALL = dict(vocabulary=40, width=16, depth=2, heads=2, max_length=32)
NETWORKS = {
    "llama": (families.llama(**SMALL, kv_heads=1, scan=True), r"(attention|mlp)/\w+$|^head$"),
    "mixtral": (families.llama(**SMALL, experts=4, experts_used=2, hidden=16), r"(attention|mlp)/\w+$"),
    "qwen3_moe": (families.llama(**SMALL, experts=4, experts_used=2, hidden=16, qk_norm=True), r"(attention|mlp)/\w+$"),
    "gpt_oss": (families.gpt_oss(**SMALL, experts=4, experts_used=2, hidden=16), r"(attention|mlp)/\w+$"),
    "gpt2": (families.gpt2(**SMALL), r"layer0/attention/(query|value)$|layer1/attention/key$|mlp"),
}


@pytest.mark.parametrize("family", NETWORKS)
def test_adapters_on_their_base_are_the_merged_network(family, tmp_path):
    module, targets = NETWORKS[family]
    tokens = np.random.default_rng(0).integers(0, 40, (2, 9)).astype(np.int32)
    base = jax.jit(lambda key: module.init(key, tokens)["params"])(jax.random.key(0))
    model = lora(module, rank=3, alpha=5.0, targets=targets)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), model.adapters(jax.random.key(0), base))
    save(tmp_path / "base", module, base)
    save_adapters(tmp_path / "peft", str(tmp_path / "base"), family, model, params)
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    whole = module.apply({"params": model.merged(params, base)}, jnp.asarray(tokens))
    with torch.no_grad():
        plain = network(torch.tensor(tokens).long()).logits.numpy()
        adapted = peft.PeftModel.from_pretrained(network, tmp_path / "peft").eval()
        logits = adapted(torch.tensor(tokens).long()).logits.numpy()
    assert np.abs(plain - logits).max() > 0.1
    # Adapters of unit normal entries make large sums, which the two packages add in their own order.
    np.testing.assert_allclose(logits, whole, rtol=0, atol=1e-4 * np.abs(whole).max())
