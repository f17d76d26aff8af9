"""Writes text with an exported decoder: `python greedy.py "the prompt"` beside model.onnx, tokenizer.json, greedy.json.

It needs NumPy, onnxruntime and tokenizers, and nothing of kd_jax.
"""

import json
import sys
from pathlib import Path

import numpy as np


def greedy(run, cache, prompt, size, length, end=()):
    """Returns up to `length` most likely tokens after `prompt`, a list of token ids.

    `run(token [1, 1], slot, *cache)` answers [logits [1, vocabulary], *cache] for a cache of `size` tokens, which
    begins as `cache`; generation stops after a token of `end`. Raises ValueError where the cache is too small.
    """
    if not prompt or len(prompt) + length > size:
        raise ValueError(f"Prompt and new tokens are {len(prompt)} + {length}: at least 1 and at most {size} in all.")
    tokens, logits = list(prompt), None
    for slot in range(len(prompt) + length - 1):
        logits, *cache = run(np.full((1, 1), tokens[slot], np.int32), np.array(slot, np.int32), *cache)
        if slot >= len(prompt) - 1:
            tokens.append(int(logits[0].argmax()))
            if tokens[-1] in end:
                break
    return tokens[len(prompt) :]


def main(prompt, folder, length=32):
    """Prints the prompt and what the decoder in `folder` goes on with, in at most `length` tokens.

    greedy.json says which tokens begin and end a text.
    """
    import onnxruntime
    from tokenizers import Tokenizer

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    inputs = session.get_inputs()
    cache = [np.zeros(i.shape, np.float32) for i in inputs[2:]]
    size = cache[0].shape[-3]

    def run(*arrays):
        return session.run(None, {i.name: x for i, x in zip(inputs, arrays, strict=True)})

    special = json.loads((folder / "greedy.json").read_text())
    tokens = [*special["start"], *tokenizer.encode(prompt, add_special_tokens=False).ids]
    written = greedy(run, cache, tokens, size, min(length, size - len(tokens)), special["end"])
    print(prompt + tokenizer.decode([token for token in written if token not in special["end"]]))


if __name__ == "__main__":
    main(sys.argv[1], Path(__file__).parent)
