"""Tokens a second of a distillation step of language models, and of generation: ours against PyTorch.

python -m benchmarks.decoders [--rounds=7] [--vocabulary=8192]   (needs the extra parity: pip install -e '.[parity]')

Llama-like teacher and student with the same weights on both sides (written by models/language/pretrained_decoders.py
and read by `transformers`), the same tokens, AdamW, float32. The PyTorch step is what TRL's GKD trainer computes on
full logits: both log-softmaxes, divergence per token, mean over tokens; eager, and with model and loss under
torch.compile. Both sides use the same cores. Every round runs each program for five steps, in turn: a run makes its
steps one after another, and finds its memory where its last step left it. The table has medians of rounds.
"processor ms" is the time that a step kept processors busy, which counts where others use them too: with `taskset -c 0`
before the command both sides have one thread, none of which waits for another. `loss` is that of the first step, which
has to agree. "fused" never builds the logits (losses/vocabulary.py).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import transformers

from benchmarks import common
from kd_jax.core.bind import bind, init_state, loaded_variables
from kd_jax.core.step import make_train_step
from kd_jax.core.terms import hyper_of
from kd_jax.losses import response, vocabulary
from kd_jax.models.adapters import LinenModel
from kd_jax.models.language import decoder_families as families
from kd_jax.models.language.decoder import decoding
from kd_jax.models.language.generation import generate
from kd_jax.models.language.pretrained_decoders import save
from kd_jax.types import Call, Phase, Role, Scheme, Stage, Term

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOKENS, RATE, KEY = ("batch.tokens",), 1e-3, jax.random.key(0)
LOGITS = (("student.logits",), ("teacher.logits",))
HIDDEN = (("student.features:final", "params.student.head"), ("teacher.features:final", "params.teacher.head"))
TERMS = {
    "forward KL": Term(response.kd_loss, *LOGITS, kwargs={"temperature": 1.0}),
    "JSD": Term(response.jsd_loss, *LOGITS, kwargs={"beta": 0.5}),
    "forward KL, fused": Term(vocabulary.fused_kd_loss, *HIDDEN, kwargs={"temperature": 1.0, "chunk": 64}),
    "JSD, fused": Term(vocabulary.fused_jsd_loss, *HIDDEN, kwargs={"beta": 0.5, "chunk": 64}),
}


def jax_step(term: Term, modules: dict, params: dict, tokens: np.ndarray) -> tuple[Callable[[], float], int]:
    """Returns (a function that makes one step and returns its loss, temporary bytes of the program)."""
    group = {"student": "student", "teacher": None}
    roles = {n: Role(LinenModel(m), TOKENS, group[n], (params[n], {})) for n, m in modules.items()}
    calls = (Call("teacher", TOKENS, train=False), Call("student", TOKENS))
    phase = Phase("student", calls, {"kd": term}, optax.adamw(RATE, weight_decay=0.0))
    scheme, batch = Scheme(roles, (Stage(1, (phase,)),)), {"tokens": jnp.asarray(tokens)}
    scheme, inputs = bind(scheme, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch))
    state = jax.jit(lambda loaded: init_state(scheme, inputs, KEY, loaded))(loaded_variables(scheme))
    hyper, held = hyper_of(scheme.stages[0]), [state]
    step = (
        jax.jit(make_train_step(scheme, scheme.stages[0]), donate_argnums=0).lower(state, batch, hyper, KEY).compile()
    )

    def run() -> float:
        held[0], metrics = step(held[0], batch, hyper, KEY)
        return float(metrics["kd"][0] / metrics["kd"][1])

    return run, step.memory_analysis().temp_size_in_bytes


def torch_step(kind: str, networks: dict, tokens: np.ndarray, compiled: bool) -> Callable[[], float]:
    student, teacher = networks["student"], networks["teacher"]
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0)
    inputs = torch.tensor(tokens, device=DEVICE).long()

    def divergence(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        s, t = s.log_softmax(-1), t.log_softmax(-1)
        if kind == "forward KL":
            per_token = (t.exp() * (t - s)).sum(-1)
        else:
            m = torch.logsumexp(torch.stack([s, t]), 0) - np.log(2.0)
            per_token = ((t.exp() * (t - m)).sum(-1) + (s.exp() * (s - m)).sum(-1)) / 2
        return per_token.mean()

    def loss_of(inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = teacher(inputs, use_cache=False).logits
        return divergence(student(inputs, use_cache=False).logits, target)

    loss_of = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def run() -> float:
        optimizer.zero_grad()
        loss = loss_of(inputs)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def timed(
    programs: dict[str, Callable[[], Any]], rounds: int, steps: int
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """Returns ({name: median seconds}, the same of processor time, {name: what the first call returned}).

    Every round runs each program `steps` times.
    """
    first = {name: program() for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    busy: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            start, before = time.perf_counter(), time.process_time()
            for _ in range(steps):
                program()
            if number:
                seconds[name].append((time.perf_counter() - start) / steps)
                busy[name].append((time.process_time() - before) / steps)
    medians, used = ({name: common.median(s) for name, s in of.items()} for of in (seconds, busy))
    return medians, used, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of a program in each round, one after another")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--kinds", nargs="*", default=["forward KL", "JSD"])
    parser.add_argument("--record", default="decoders", help="the file in benchmarks/results")
    parser.add_argument("--eager", action="store_true", help="leave out torch.compile, which takes minutes")
    args = parser.parse_args()
    modules = {
        "student": families.llama(args.vocabulary, width=128, depth=2, heads=4, kv_heads=2, max_length=1024),
        "teacher": families.llama(args.vocabulary, width=256, depth=4, heads=4, kv_heads=2, max_length=1024),
    }
    params, networks = {}, {}
    for number, (name, module) in enumerate(modules.items()):
        params[name] = jax.jit(lambda k, m=module: m.init(k, jnp.zeros((1, 2), jnp.int32))["params"])(
            jax.random.key(number)
        )
        with tempfile.TemporaryDirectory() as folder:
            save(folder, module, params[name], eos_token_id=0, pad_token_id=0, bos_token_id=0)
            network = transformers.AutoModelForCausalLM.from_pretrained(folder)
            networks[name] = network.to(DEVICE).train(name == "student")
    start = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in networks.items()}
    tokens = np.random.default_rng(0).integers(0, args.vocabulary, (args.batch, args.length)).astype(np.int32)

    rows, count = [], args.batch * args.length
    for kind in args.kinds:
        networks["student"].load_state_dict(start["student"])
        programs: dict[str, Callable[[], Any]] = {}
        temporary: dict[str, int] = {}
        for name in (kind, f"{kind}, fused"):
            programs[f"kd_jax {name}"], temporary[f"kd_jax {name}"] = jax_step(TERMS[name], modules, params, tokens)
        for compiled in (False,) if args.eager else (False, True):
            network = transformers.AutoModelForCausalLM.from_config(networks["student"].config)
            network.to(DEVICE).load_state_dict(start["student"])
            pair = {"student": network.train(), "teacher": networks["teacher"].eval()}
            programs[f"PyTorch {'compiled' if compiled else 'eager'} {kind}"] = torch_step(kind, pair, tokens, compiled)
        seconds, busy, losses = timed(programs, args.rounds, args.steps)
        assert max(losses.values()) - min(losses.values()) < 1e-3 * max(losses.values()), losses
        eager = seconds[f"PyTorch eager {kind}"]
        for name, value in seconds.items():
            megabytes = f"{temporary[name] / 2**20:.0f}" if name in temporary else ""
            rows.append(
                {
                    "step": name,
                    "tokens/s": round(count / value),
                    "PyTorch eager = 1": f"{eager / value:.2f}",
                    "processor ms": round(1e3 * busy[name]),
                    "temporary MB": megabytes,
                    "loss": f"{losses[name]:.6f}",
                }
            )

    prompt, teacher = tokens[:, :16], networks["teacher"].eval()
    ours = jax.jit(partial(generate, decoding(modules["teacher"]), length=args.new, temperature=0))

    def torch_generate() -> np.ndarray:
        inputs = torch.tensor(prompt, device=DEVICE).long()
        with torch.no_grad():
            return (
                teacher.generate(
                    inputs,
                    attention_mask=torch.ones_like(inputs),
                    max_new_tokens=args.new,
                    min_new_tokens=args.new,
                    do_sample=False,
                )
                .cpu()
                .numpy()[:, 16:]
            )

    programs = {
        "kd_jax generate": lambda: np.asarray(ours(params["teacher"], prompt, None, KEY).tokens),
        "PyTorch generate": torch_generate,
    }
    seconds, _, texts = timed(programs, args.rounds, args.steps)
    same = float((texts["kd_jax generate"] == texts["PyTorch generate"]).mean())
    for name, value in seconds.items():
        ratio = f"{seconds['PyTorch generate'] / value:.2f}"
        rows.append({"step": name, "tokens/s": round(args.batch * args.new / value), "PyTorch eager = 1": ratio})
    notes = f"same greedy tokens: {same:.3f}; threads of PyTorch: {torch.get_num_threads()}"
    common.write(args.record, rows, shapes=vars(args), generation=notes)


if __name__ == "__main__":
    main()
