"""M-Former: routed query experts that read a user's collaborative embeddings and become the prefix of the LLM."""

import torch
from torch.nn.functional import gelu, layer_norm

from case import Case, Random, gradients, int32, require_clear_head, split_rows
from router import gate_values, probabilities, top_k

NORM_EPS = 1e-12
MARGIN = 1e-4  # between expert weights: no f32 run may route differently


def norm(p, name, x):
    return layer_norm(x, x.shape[-1:], p[f"{name}.weight"], p[f"{name}.bias"], NORM_EPS)


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def attention_sublayer(p, name, x, source, heads):
    """LayerNorm(x + dense(attention)) with x [k, L, d_m] reading source [k, N, d_m] (or [N, d_m])."""

    def split_heads(rows):  # [..., n, d_m] -> [..., heads, n, d_m / heads]
        return rows.unflatten(-1, (heads, -1)).transpose(-2, -3)

    q = split_heads(linear(p, f"{name}.q", x))
    k = split_heads(linear(p, f"{name}.k", source))
    v = split_heads(linear(p, f"{name}.v", source))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    mixed = (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)
    return norm(p, f"{name}.norm", x + linear(p, f"{name}.o", mixed))


def feed_forward(p, name, x):
    return linear(p, f"{name}.down", gelu(linear(p, f"{name}.up", x)))


def blocks(p, queries, keys, sizes, mixture):
    """The Z post-norm blocks over queries [*, L, d_m]; cross-attention in even blocks. `mixture` lists the (expert,
    gate) pairs of the feed-forward layers, or is None where each block has one."""
    x = norm(p, "norm", queries)
    for z in range(sizes["blocks"]):
        block = f"blocks.{z}"
        x = attention_sublayer(p, f"{block}.self_attn", x, x, sizes["heads"])
        if z % 2 == 0:
            x = attention_sublayer(p, f"{block}.cross_attn", x, keys, sizes["heads"])
        if mixture is None:
            dense = feed_forward(p, block, x)
        else:
            dense = sum(gate * feed_forward(p, f"{block}.experts.{j}", x) for j, gate in mixture)
        x = norm(p, f"{block}.norm", x + dense)
    return x


def mformer_forward(p, C, lengths, sizes):
    """(prefix [B, L, d], router probabilities of every user [N, K]) from packed C [sum N, d_c]; names in p start
    after `mformer.`."""
    prefixes, routed = [], []
    for C_user in split_rows(C, lengths):
        P = probabilities(C_user, p["router.weight"])
        w = P.mean(0)
        require_clear_head(w, sizes["k"], MARGIN, "expert weights")
        for row in P:
            require_clear_head(row, 1, MARGIN, "expert probabilities")
        top = top_k(w, sizes["k"])
        gates = gate_values(w[top], sizes["gates"])
        keys = linear(p, "proj_in", C_user)
        if sizes.get("moe") == "ffn":
            Q = blocks(p, p["queries"][None], keys, sizes, list(zip(top.tolist(), gates)))[0]
        else:
            Q = (gates[:, None, None] * blocks(p, p["experts"][top], keys, sizes, None)).sum(0)
        prefixes.append(linear(p, "proj_out", Q))
        routed.append(P)
    return torch.stack(prefixes), routed


def mformer_parameters(random, sizes):
    """Random parameters (without `mformer.`), scaled so that every gradient is of ordinary size."""
    d_c, d_m, d, K, L = (sizes[name] for name in ("d_c", "d_m", "d", "K", "L"))
    p = {}

    def add_linear(name, rows, columns):
        p[f"{name}.weight"] = random.normal(rows, columns, scale=columns**-0.5)
        p[f"{name}.bias"] = random.normal(rows, scale=0.2)

    def add_norm(name):
        p[f"{name}.weight"] = random.normal(d_m, scale=0.2, mean=1.0)
        p[f"{name}.bias"] = random.normal(d_m, scale=0.2)

    ffn = sizes.get("moe") == "ffn"
    if ffn:
        p["queries"] = random.normal(L, d_m)
    else:
        p["experts"] = random.normal(K, L, d_m)
    p["router.weight"] = random.normal(K, d_c, scale=1.5 * d_c**-0.5)
    add_linear("proj_in", d_m, d_c)
    add_linear("proj_out", d, d_m)
    add_norm("norm")
    for z in range(sizes["blocks"]):
        for attention in ["self_attn", "cross_attn"] if z % 2 == 0 else ["self_attn"]:
            for name in "qkvo":
                add_linear(f"blocks.{z}.{attention}.{name}", d_m, d_m)
            add_norm(f"blocks.{z}.{attention}.norm")
        for layer in [f"blocks.{z}.experts.{j}" for j in range(K)] if ffn else [f"blocks.{z}"]:
            add_linear(f"{layer}.up", 4 * d_m, d_m)
            add_linear(f"{layer}.down", d_m, 4 * d_m)
        add_norm(f"blocks.{z}.norm")
    return p


def mformer(inputs, params):
    p = {name[2:]: value.clone().requires_grad_() for name, value in inputs.items() if name.startswith("p.")}
    prefix, _ = mformer_forward(p, inputs["C"], inputs["lengths"], params)
    found = gradients((prefix * inputs["dprefix"]).sum(), p)
    return {"prefix": prefix, **{f"g.{name}": grad for name, grad in found.items()}}


MFORMER = [  # name, lengths, sizes
    ("weights", [1, 4, 9], dict(d_c=16, d_m=24, heads=3, blocks=3, K=4, k=2, L=5, d=20, gates="weights")),
    ("one-expert", [3, 1], dict(d_c=7, d_m=16, heads=2, blocks=1, K=1, k=1, L=1, d=9, gates="softmax")),
    ("softmax", [2, 7], dict(d_c=9, d_m=16, heads=1, blocks=2, K=5, k=2, L=4, d=13, gates="softmax")),
    (
        "normalized",
        [6, 1, 11],
        dict(d_c=12, d_m=32, heads=4, blocks=2, K=5, k=3, L=3, d=33, gates="normalized"),
    ),
    ("ffn-weights", [5, 1, 8], dict(moe="ffn", d_c=6, d_m=8, heads=2, blocks=2, K=4, k=2, L=5, d=11, gates="weights")),
    ("ffn-softmax", [2, 3], dict(moe="ffn", d_c=5, d_m=12, heads=1, blocks=1, K=3, k=3, L=2, d=7, gates="softmax")),
]


def cases():
    for name, lengths, sizes in MFORMER:
        random = Random(f"mformer-{name}")
        p = mformer_parameters(random, sizes)
        inputs = {"C": random.normal(sum(lengths), sizes["d_c"]), "lengths": int32(lengths)}
        inputs["dprefix"] = random.normal(len(lengths), sizes["L"], sizes["d"])
        inputs.update({f"p.{key}": value for key, value in p.items()})
        doc = (
            f"M-Former whole, gates {sizes['gates']}, top {sizes['k']} of {sizes['K']} {'feed-forward ' * ('moe' in sizes)}"
            "experts; g.router.weight comes"
            " through the gates alone, and experts nobody chose have gradient zero."
        )
        yield Case("mformer", name, sizes, doc, inputs, mformer)
