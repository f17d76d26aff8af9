"""A folder of gpt-oss whose experts are packed in four bits, as OpenAI's are."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

QUANTIZED = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def pack(folder, seed=0):
    """Puts random numbers of four bits for the experts' weights of a folder; widths must be multiples of 32."""
    random, path = np.random.default_rng(seed), folder / "model.safetensors"
    tensors = load_file(path)
    for name in [n for n in tensors if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, width, out = tensors.pop(name).shape
        tensors[f"{name}_blocks"] = random.integers(0, 256, (experts, out, width // 32, 16), np.uint8)
        tensors[f"{name}_scales"] = random.integers(123, 126, (experts, out, width // 32), np.uint8)
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": QUANTIZED}))
    return folder
