"""laser_step: a whole training step (prefix, frozen Llama, IIC and load-balancing loss, every gradient, Adam)."""

import os
from functools import partial

import torch

from case import Case, Random, gradients, int32, split_rows
from itemset import iic_losses
from decoder import texts
from llama import Llama
from mformer import mformer_forward, mformer_parameters
from router import load_balancing

STEPS, LEARNING_RATE = 3, 1e-3


def pooled(model, inputs, prefix, suffix, pooling):
    """h [B, d]: the mean hidden state of the suffix tokens of [prefix_b | text_b | suffix]; or without a suffix of all
    of [prefix_b | text_b] (`mean`), or the last one of [prefix_b | text_b | EOS] (`eos`)."""
    rows = []
    for b, text in enumerate(split_rows(inputs["ids"], inputs["text_lengths"])):
        if pooling == "eos":
            text = torch.cat([text, torch.tensor([model.config["eos_token_id"]])])
        parts = [model.embed(text, inputs["E"].dtype)]
        if prefix is not None:
            parts.insert(0, prefix[b])
        if pooling == "suffix":
            parts.append(suffix)
        states = model.hidden_states(torch.cat(parts))
        first = {"mean": 0, "eos": -1}[pooling] if suffix is None else -suffix.shape[0]
        rows.append(states[first:].mean(0))
    return torch.stack(rows)


def losses(model, p, inputs, params):
    """(h [B, d], loss, iic, lb) for parameters p under their full names. lb is zero without an M-Former."""
    lb = torch.zeros((), dtype=inputs["E"].dtype)
    prefix = None
    if params["prefix"] == "mformer":
        own = {name[len("mformer.") :]: value for name, value in p.items() if name.startswith("mformer.")}
        prefix, routed = mformer_forward(own, inputs["C"], inputs["lengths"], params)
        lb = load_balancing(routed, params["load_balancing"])
    elif params["prefix"] == "free":
        prefix = p["prefix"].expand(len(inputs["text_lengths"]), -1, -1)
    h = pooled(model, inputs, prefix, p.get("suffix"), params.get("pooling", "suffix"))
    if params.get("projection"):
        h = h @ p["projection.weight"].T + p["projection.bias"]
    per_user, _ = iic_losses(h, inputs["E"], inputs["target"], params["tau"])
    iic = per_user.mean()
    return h, iic + params["lambda"] * lb, iic, lb


def laser_step(model, inputs, params):
    p = {name[2:]: value.clone().requires_grad_() for name, value in inputs.items() if name.startswith("p.")}
    h, loss, iic, lb = losses(model, p, inputs, params)
    outputs = {"h": h, "loss": loss, "iic": iic, "lb": lb}
    outputs.update({f"g.{name}": grad for name, grad in gradients(loss, p).items()})
    optimiser = torch.optim.Adam(p.values(), lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8)
    before = []
    for _ in range(STEPS):
        loss = losses(model, p, inputs, params)[1]
        before.append(loss.detach())
        for leaf, grad in zip(p.values(), gradients(loss, list(p.values()))):
            leaf.grad = grad
        optimiser.step()
    outputs["adam_losses"] = torch.stack(before)
    outputs.update({f"after{STEPS}.{name}": value for name, value in p.items()})
    return outputs


STEP = [  # name, checkpoint, lengths of C, text lengths, I, params
    (
        "mformer-sequence",
        "llama-tiny",
        [1, 3, 6],
        [4, 9, 13],
        23,
        dict(
            prefix="mformer",
            gates="weights",
            load_balancing="sequence",
            tau=0.05,
            suffix=1,
            d_c=12,
            d_m=16,
            heads=2,
            blocks=2,
            K=4,
            k=2,
            L=3,
            **{"lambda": 0.1},
        ),
    ),
    (
        "mformer-batch",
        "llama-tiny-sharded",
        [5, 2],
        [7, 3],
        37,
        dict(
            prefix="mformer",
            gates="softmax",
            load_balancing="batch",
            tau=0.05,
            suffix=2,
            d_c=8,
            d_m=16,
            heads=1,
            blocks=1,
            K=5,
            k=3,
            L=2,
            **{"lambda": 0.5},
        ),
    ),
    (
        "mformer-normalized",
        "llama-tiny",
        [4, 7],
        [6, 1],
        11,
        dict(
            prefix="mformer",
            gates="normalized",
            load_balancing="sequence",
            tau=0.1,
            suffix=1,
            d_c=5,
            d_m=8,
            heads=1,
            blocks=1,
            K=3,
            k=2,
            L=2,
            **{"lambda": 0.1},
        ),
    ),
    (
        "free",
        "llama-tiny",
        None,
        [5, 8, 2],
        19,
        dict(prefix="free", tau=0.05, suffix=1, L=4, **{"lambda": 0.1}),
    ),
    (
        "none",
        "llama-tiny-sharded",
        None,
        [3, 11],
        29,
        dict(prefix="none", tau=0.05, suffix=2, **{"lambda": 0.1}),
    ),
    (
        "ffn-mean-projection",
        "llama-tiny",
        [2, 5, 1],
        [6, 1, 14],
        13,
        dict(
            prefix="mformer",
            moe="ffn",
            pooling="mean",
            projection=True,
            gates="weights",
            load_balancing="sequence",
            tau=0.05,
            d_c=6,
            d_m=8,
            heads=1,
            blocks=1,
            K=3,
            k=2,
            L=3,
            **{"lambda": 0.1},
        ),
    ),
    (
        "free-mean",
        "llama-tiny-sharded",
        None,
        [4, 17, 1],
        17,
        dict(prefix="free", pooling="mean", tau=0.05, L=2, **{"lambda": 0.1}),
    ),
    (
        "free-eos",
        "llama-tiny",
        None,
        [5, 9],
        7,
        dict(prefix="free", pooling="eos", tau=0.05, L=3, **{"lambda": 0.1}),
    ),
    (
        "none-eos-projection",
        "llama-tiny",
        None,
        [3, 8, 1],
        19,
        dict(prefix="none", pooling="eos", projection=True, tau=0.1, **{"lambda": 0.1}),
    ),
]


def cases(folder):
    for name, checkpoint, lengths, text_lengths, items, params in STEP:
        random = Random(f"laser_step-{name}")
        model = Llama(os.path.join(folder, checkpoint))
        d, B = model.config["hidden_size"], len(text_lengths)
        params = {"checkpoint": checkpoint, **params, "d": d}
        inputs = {}
        if lengths:
            inputs["C"] = random.normal(sum(lengths), params["d_c"])
            inputs["lengths"] = int32(lengths)
        inputs["ids"] = texts(random, model.config["vocab_size"], text_lengths)
        inputs["text_lengths"] = int32(text_lengths)
        inputs["E"] = random.normal(items, d)
        inputs["target"] = random.ids(0, items, B)
        if params.get("pooling", "suffix") == "suffix":
            inputs["p.suffix"] = random.normal(params["suffix"], d)
        if params["prefix"] == "free":
            inputs["p.prefix"] = random.normal(params["L"], d)
        if params["prefix"] == "mformer":
            p = mformer_parameters(random, params)
            inputs.update({f"p.mformer.{key}": value for key, value in p.items()})
        if params.get("projection"):
            inputs["p.projection.weight"] = random.normal(d, d, scale=d**-0.5)
            inputs["p.projection.bias"] = random.normal(d, scale=0.2)
        doc = f"A whole step on {checkpoint}, prefix {params['prefix']}, no dropout"
        doc += "; lb is 0 and loss = iic without an M-Former." if params["prefix"] != "mformer" else "."
        yield Case("laser_step", name, params, doc, inputs, partial(laser_step, model))
