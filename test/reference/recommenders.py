"""The ID recommenders whole: BERT4Rec with its cloze loss, SASRec with cross-entropy and with its binary loss."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy, gelu, layer_norm, logsigmoid, relu

from case import Case, Random, gradients, int32, split_rows

NORM_EPS = 1e-12


def norm(p, name, x):
    return layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], NORM_EPS)


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def attention(p, name, x, heads, causal):
    """Multi-head self-attention of one sequence [n, width], with its output projection."""

    def split_heads(rows):  # [n, width] -> [heads, n, width / heads]
        return rows.unflatten(-1, (heads, -1)).transpose(0, 1)

    q, k, v = (split_heads(linear(p, f"{name}.{part}", x)) for part in "qkv")
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
    return linear(p, f"{name}.o", (scores.softmax(-1) @ v).transpose(0, 1).flatten(1))


def embedded(p, ids, max_length):
    """Item plus position embeddings of one sequence; positions count back from the last one."""
    table = torch.cat([p["items.weight"], p["padding.weight"]]) if "padding.weight" in p else p["items.weight"]
    return table[ids] + p["positions.weight"][max_length - len(ids) :]


def bert4rec_states(p, ids, sizes):
    """Post-norm blocks, bidirectional, GELU of four times the width."""
    x = norm(p, "norm", embedded(p, ids, sizes["max_length"]))
    for z in range(sizes["blocks"]):
        block = f"blocks.{z}"
        x = norm(p, f"{block}.self_attn.norm", x + attention(p, f"{block}.self_attn", x, sizes["heads"], False))
        x = norm(p, f"{block}.norm", x + linear(p, f"{block}.down", gelu(linear(p, f"{block}.up", x))))
    return x


def sasrec_states(p, ids, sizes):
    """Pre-norm blocks, causal, ReLU of the width itself, a LayerNorm at the end."""
    x = embedded(p, ids, sizes["max_length"])
    for z in range(sizes["blocks"]):
        block = f"blocks.{z}"
        x = x + attention(p, f"{block}.self_attn", norm(p, f"{block}.self_attn.norm", x), sizes["heads"], True)
        x = x + linear(p, f"{block}.down", relu(linear(p, f"{block}.up", norm(p, f"{block}.norm", x))))
    return norm(p, "norm", x)


def model(inputs, params, states, loss_of):
    p = {name[2:]: value.clone().requires_grad_() for name, value in inputs.items() if name.startswith("p.")}
    hidden = torch.cat([states(p, ids, params) for ids in split_rows(inputs["ids"], inputs["lengths"])])
    loss = loss_of(p, hidden, inputs, params)
    found = gradients(loss, p)
    return {"hidden": hidden, "loss": loss, **{f"g.{name}": grad for name, grad in found.items()}}


def cloze_loss(p, hidden, inputs, params):
    predicted = norm(p, "head.norm", gelu(linear(p, "head", hidden[inputs["masked_rows"]])))
    logits = predicted @ p["items.weight"][: params["items"]].T + p["items.bias"]
    return cross_entropy(logits, inputs["targets"])


def next_item_loss(p, hidden, inputs, params):
    items = p["items.weight"]
    if params["loss"] == "cross-entropy":
        return cross_entropy(hidden @ items.T, inputs["targets"])
    true = (hidden * items[inputs["targets"]]).sum(-1)
    false = (hidden * items[inputs["negatives"]]).sum(-1)
    return -(logsigmoid(true) + logsigmoid(-false)).mean()


def bert4rec(inputs, params):
    return model(inputs, params, bert4rec_states, cloze_loss)


def sasrec(inputs, params):
    return model(inputs, params, sasrec_states, next_item_loss)


def shared_parameters(random, sizes, expansion):
    """Parameters of the blocks and positions, scaled so that every gradient is of ordinary size."""
    width = sizes["width"]
    p = {"positions.weight": random.normal(sizes["max_length"], width)}

    def add_linear(name, rows, columns):
        p[f"{name}.weight"] = random.normal(rows, columns, scale=columns**-0.5)
        p[f"{name}.bias"] = random.normal(rows, scale=0.2)

    def add_norm(name):
        p[f"{name}.weight"] = random.normal(width, scale=0.2, mean=1.0)
        p[f"{name}.bias"] = random.normal(width, scale=0.2)

    add_norm("norm")
    for z in range(sizes["blocks"]):
        for part in "qkvo":
            add_linear(f"blocks.{z}.self_attn.{part}", width, width)
        add_norm(f"blocks.{z}.self_attn.norm")
        add_linear(f"blocks.{z}.up", expansion * width, width)
        add_linear(f"blocks.{z}.down", width, expansion * width)
        add_norm(f"blocks.{z}.norm")
    return p, add_linear, add_norm


def bert4rec_case(name, lengths, sizes):
    random = Random(f"bert4rec-{name}")
    items, width, total = sizes["items"], sizes["width"], sum(lengths)
    p, add_linear, add_norm = shared_parameters(random, sizes, 4)
    p["items.weight"] = random.normal(items + 1, width, scale=width**-0.5)
    p["items.bias"] = random.normal(items, scale=0.2)
    add_linear("head", width, width)
    add_norm("head.norm")
    ids = random.ids(0, items, total)
    targets, rows, start = [], [], 0
    for n in lengths:  # the last item, and every third before it
        rows += [start + i for i in range(n) if (n - 1 - i) % 3 == 0]
        start += n
    targets = ids[rows].copy()
    ids[rows] = items  # the mask
    inputs = {"ids": ids, "lengths": int32(lengths), "masked_rows": int32(rows), "targets": targets}
    inputs.update({f"p.{key}": value for key, value in p.items()})
    doc = f"BERT4Rec whole: hidden states, and the gradient of the mean cross-entropy of {len(rows)} masked items."
    return Case("bert4rec", name, sizes, doc, inputs, bert4rec)


def sasrec_case(name, lengths, sizes):
    random = Random(f"sasrec-{name}")
    items, width, total = sizes["items"], sizes["width"], sum(lengths)
    p, _, _ = shared_parameters(random, sizes, 1)
    p["items.weight"] = random.normal(items, width, scale=width**-0.5)
    p["padding.weight"] = np.zeros((1, width), np.float32)
    ids = random.ids(0, items, total)
    inputs = {"ids": ids, "lengths": int32(lengths), "targets": random.ids(0, items, total)}
    if sizes["loss"] == "binary":
        inputs["negatives"] = random.ids(0, items, total)
    inputs.update({f"p.{key}": value for key, value in p.items()})
    doc = f"SASRec whole: hidden states, and the gradient of the mean {sizes['loss']} loss of every position."
    return Case("sasrec", name, sizes, doc, inputs, sasrec)


BERT4REC = [  # name, lengths, sizes
    ("two-heads", [1, 4, 9], dict(items=23, width=16, heads=2, blocks=2, max_length=10)),
    ("one-block", [2], dict(items=7, width=12, heads=3, blocks=1, max_length=2)),
]

SASREC = [
    (
        "cross-entropy",
        [1, 4, 9],
        dict(items=23, width=16, heads=2, blocks=2, max_length=9, loss="cross-entropy"),
    ),
    ("binary", [5, 1, 7], dict(items=19, width=16, heads=1, blocks=2, max_length=11, loss="binary")),
]


def cases():
    for name, lengths, sizes in BERT4REC:
        yield bert4rec_case(name, lengths, sizes)
    for name, lengths, sizes in SASREC:
        yield sasrec_case(name, lengths, sizes)
