"""Tokenizer folders as `transformers` writes them, with tokenizers trained here, and files of records."""

import gzip
import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kd_jax.data import load

TEXTS = [
    "What is two and two?",
    "Four, of course. Two and two are four.",
    "Name a colour of the sky.",
    "The sky is blue by day and black by night.",
    "You answer in short sentences.",
    "Thank you, that is all I wanted to know.",
]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3's: a start of its own, and an end of a turn that is not the end of a text.
HEADERS = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# As Qwen3's: what an assistant thought is shown in its last turn alone.
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for message in messages %}{% if message.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}\n{% else %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def trained(special, start="", size=400):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    if start:
        pair = (start, tokenizer.token_to_id(start))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[pair])
    return tokenizer


def qwen(folder, template=CHATML, where="jinja", **config):
    """No token begins a text; <|im_end|> ends a turn, <|endoftext|> pads and ends too."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = trained(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    return _written(folder, settings, template, where, {"eos_token_id": [2, 0], "pad_token_id": 0}, config)


def llama(folder, template=HEADERS, where="config", **config):
    """<|begin_of_text|> begins a text; there is no padding token, <|eot_id|> ends a turn and <|end_of_text|> a text."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = trained(special, special[0])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"content": "<|begin_of_text|>", "__type": "AddedToken", "special": True},
        "eos_token": "<|end_of_text|>",
    }
    return _written(folder, settings, template, where, {"eos_token_id": [1, 4]}, config)


def _written(folder, settings, template, where, generation, config):
    if template and where == "jinja":
        (folder / "chat_template.jinja").write_text(template)
    elif template:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def jsonl(path, records):
    text = "".join(json.dumps(record) + "\n" for record in records)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def conversation(*contents, system=""):
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + turns}


def opened(place, folder, data, **fields):
    """The splits of records, read with the tokenizer of a folder."""
    path = jsonl(place / "data.jsonl", data)
    asked = dict(length=96, test=0.2, packing="padded", cache=str(place / "cache")) | fields
    return load.load(dict(name=load.CONVERSATIONS, path=str(path), tokenizer=str(folder), **asked))


TALKS = [
    conversation(TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[3], system=TEXTS[4]),
    conversation(TEXTS[0], TEXTS[1], TEXTS[5]),
    conversation(TEXTS[2], TEXTS[3]),
    conversation(TEXTS[5], "All right."),
    conversation("And three?", "Three and two are five.", "And four?", "Six."),
    conversation("Is it day?", "No, night."),
]
