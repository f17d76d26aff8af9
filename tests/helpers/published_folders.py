"""Folders of small random language models as `transformers` writes them, with tokenizers trained here."""

import json
import shutil

import torch
import transformers
from language_folders import CHATML, HEADERS, TEXTS, trained
from safetensors.torch import save_file

TURNS = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' "
    "else message['role']) + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADED = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TURNED = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
GEMMA3_LAYERS = ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]
# family: (class, special tokens, the one that begins a text, names of others, template, what ends a text, options)
FAMILIES = {
    "llama": ("Llama", HEADED, HEADED[0], {"eos_token": HEADED[1]}, HEADERS, [1, 4], {}),
    "qwen2": ("Qwen2", CHAT, "", {"eos_token": CHAT[2], "pad_token": CHAT[0]}, CHATML, [2, 0], {}),
    "qwen3": (
        *("Qwen3", CHAT, "", {"eos_token": CHAT[2], "pad_token": CHAT[0]}, CHATML, [2, 0]),
        {"tie_word_embeddings": True},
    ),
    "qwen3_moe": (
        *("Qwen3Moe", CHAT, "", {"eos_token": CHAT[2], "pad_token": CHAT[0]}, CHATML, [2, 0]),
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "mlp_only_layers": [2]},
    ),
    "mixtral": (
        *("Mixtral", CHAT, "", {"eos_token": CHAT[2], "pad_token": CHAT[0]}, CHATML, [2, 0]),
        {"num_local_experts": 4},
    ),
    "gpt_oss": (
        *("GptOss", CHAT, "", {"eos_token": CHAT[2], "pad_token": CHAT[0]}, CHATML, [2, 0]),
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    ),
    "gemma2": (
        *("Gemma2", TURNED, TURNED[2], {"eos_token": TURNED[1], "pad_token": TURNED[0]}, TURNS, [1, 4]),
        {
            "sliding_window": 8,
            "query_pre_attn_scalar": 12,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    "gemma3": (
        *("Gemma3Text", TURNED, TURNED[2], {"eos_token": TURNED[1], "pad_token": TURNED[0]}, TURNS, [1, 4]),
        {"sliding_window": 4, "query_pre_attn_scalar": 12, "layer_types": GEMMA3_LAYERS},
    ),
    "granite": (
        *("Granite", CHAT, "", {"eos_token": CHAT[2], "pad_token": CHAT[0]}, CHATML, [2, 0]),
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.4, "logits_scaling": 0.5},
    ),
    "olmo2": ("Olmo2", CHAT, "", {"eos_token": CHAT[2], "pad_token": CHAT[0]}, CHATML, [2, 0], {}),
    "phi3": ("Phi3", CHAT, "", {"eos_token": CHAT[2], "pad_token": CHAT[0]}, CHATML, [2, 0], {"sliding_window": 8}),
    "smollm3": (
        *("SmolLM3", CHAT, "", {"eos_token": CHAT[2], "pad_token": CHAT[0]}, CHATML, [2, 0]),
        {"no_rope_layers": [0, 1, 1, 0]},
    ),
}


def folder(path, family="llama", rows=0, width=16, depth=2, seed=0, tokens=300, length=64, template=True, **more):
    """Writes a random model of `rows` rows (0: those of its tokens) with its tokenizer, and returns the path."""
    kind, special, start, names, chat, ends, options = FAMILIES[family]
    tokenizer = trained(special, start, tokens)
    count = tokenizer.get_vocab_size()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, **({"bos_token": start} if start else {})
    )
    fast.chat_template = chat if template else None
    sizes = dict(
        vocab_size=rows or count,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=depth,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=length,
        bos_token_id=tokenizer.token_to_id(start) if start else 0,  # Qwen's config.json names one that nothing uses
        eos_token_id=ends[0],
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **options, **more})
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for value in network.parameters():
        value.data += 0.2 * torch.randn_like(value)
    network.generation_config.eos_token_id = ends
    network.save_pretrained(path)
    fast.save_pretrained(path)
    return path


def seeing(path, text, as_on_the_hub=False):
    """Writes a random Gemma 3 that looks at pictures, with the sizes and the tokenizer of the folder `text`.

    Its tensors have the names of transformers 5, or those of the files on the hub. Returns the network.
    """
    pictures = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8)
    config = transformers.Gemma3Config(
        text_config=transformers.AutoConfig.from_pretrained(text).to_dict(),
        vision_config={**pictures, "patch_size": 4},
        mm_tokens_per_image=4,
    )
    torch.manual_seed(0)
    whole = transformers.Gemma3ForConditionalGeneration(config).eval()
    whole.set_attn_implementation("eager")
    for value in whole.parameters():
        value.data += 0.2 * torch.randn_like(value)
    shutil.copytree(text, path, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    whole.config.save_pretrained(path)
    weights = {name: value.contiguous() for name, value in whole.state_dict().items() if name != "lm_head.weight"}
    if as_on_the_hub:
        weights = {
            name.replace("model.language_model.", "language_model.model.").removeprefix("model."): value
            for name, value in weights.items()
        }
    save_file(weights, path / "model.safetensors")
    return whole


def records(path, kind, count=24):
    """Writes records of a kind ("messages", "completion", "prompt", "text") and returns the path."""
    lines = []
    for i in range(count):
        question, answer = f"{TEXTS[i % 3]} {i % 7}", f"{TEXTS[3 + i % 3][:20]} {i % 5}"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(
            {
                "messages": {"messages": turns},
                "completion": {"prompt": question, "completion": answer},
                "prompt": {"prompt": question},
                "text": {"text": f"{question} {answer}"},
            }[kind]
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
