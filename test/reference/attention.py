"""rope, attention (packed, grouped key/value heads) and cross_attention (queries against a user's ragged keys)."""

import torch

from case import Case, Random, gradients, int32, leaves, split_rows


def rotate(x, first_position, layout, rotary_dim, theta):
    """Rotary embedding of one sequence x [T, H, h]: pair i of the first `rotary_dim` dimensions turns by
    position * theta^(-2i / rotary_dim); `half` pairs (i, i + rotary_dim / 2), `interleaved` pairs (2i, 2i + 1).
    """
    pairs = rotary_dim // 2
    frequencies = theta ** (-2.0 * torch.arange(pairs, dtype=torch.float64) / rotary_dim)
    positions = first_position + torch.arange(x.shape[0], dtype=torch.float64)
    angles = positions[:, None, None] * frequencies  # [T, 1, pairs]
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    rotary, rest = x[..., :rotary_dim], x[..., rotary_dim:]
    if layout == "half":
        a, b = rotary[..., :pairs], rotary[..., pairs:]
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    else:
        a, b = rotary[..., 0::2], rotary[..., 1::2]
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    return torch.cat([turned, rest], -1)


def attend(q, k, v, causal):
    """One sequence: q [T, H, h], k and v [N, G, h] -> (o [T, H, h], natural log-sum-exp [T, H]). Query head i reads
    group i // (H / G)."""
    T, H, h = q.shape
    N, G, _ = k.shape
    k = k.repeat_interleave(H // G, 1)
    v = v.repeat_interleave(H // G, 1)
    scores = torch.einsum("thc,nhc->htn", q, k) * h**-0.5
    if causal:
        scores = scores.masked_fill(torch.ones(T, N, dtype=torch.bool).triu(1), -torch.inf)
    o = torch.einsum("htn,nhc->thc", scores.softmax(-1), v)
    return o, torch.logsumexp(scores, -1).T


def rope(inputs, params):
    (x,) = leaves(inputs, "x")
    settings = (params["start"], params["layout"], params["rotary_dim"], params["theta"])
    y = torch.cat([rotate(part, *settings) for part in split_rows(x, inputs["lengths"])])
    (dx,) = gradients((y * inputs["dy"]).sum(), [x])
    return {"y": y, "dx": dx}


def attention(inputs, params):
    q, k, v = leaves(inputs, "q", "k", "v")
    parts = zip(*(split_rows(t, inputs["lengths"]) for t in (q, k, v)))
    results = [attend(*part, params["causal"]) for part in parts]
    o = torch.cat([o for o, _ in results])
    dq, dk, dv = gradients((o * inputs["do"]).sum(), [q, k, v])
    return {"o": o, "lse": torch.cat([lse for _, lse in results]), "dq": dq, "dk": dk, "dv": dv}


def cross_attention(inputs, params):
    q, k, v = leaves(inputs, "q", "k", "v")
    keys, values = split_rows(k, inputs["key_lengths"]), split_rows(v, inputs["key_lengths"])
    queries = torch.split(q, params["query_length"])
    o = torch.cat(
        [attend(part, keys[u], values[u], False)[0] for part, u in zip(queries, inputs["owner"].tolist())]
    )
    dq, dk, dv = gradients((o * inputs["do"]).sum(), [q, k, v])
    return {"o": o, "dq": dq, "dk": dk, "dv": dv}


ROPE = [  # name, H, h, lengths, layout, rotary_dim, theta, start
    ("half-8", 2, 8, [1, 5, 12], "half", 8, 10000.0, 0),
    ("half-64-start", 1, 64, [7, 1, 3], "half", 64, 10000.0, 37),
    ("half-80-partial", 2, 80, [4, 2], "half", 32, 10000.0, 5),
    ("interleaved-8", 4, 8, [1, 17], "interleaved", 8, 10000.0, 0),
    ("interleaved-128-partial", 2, 128, [5, 1], "interleaved", 64, 10000.0, 3),
    ("interleaved-32-theta", 3, 32, [6], "interleaved", 32, 500.0, 100),
    ("half-2", 1, 2, [1], "half", 2, 10000.0, 1),
]
ATTENTION = [  # name, H, G, h, lengths, causal
    ("causal-8", 2, 2, 8, [1, 2, 3, 5, 7, 16, 17], True),
    ("causal-8-one-row", 1, 1, 8, [1], True),
    ("causal-8-long-grouped", 4, 2, 8, [130, 1], True),
    ("causal-32-grouped", 4, 1, 32, [31, 1, 13], True),
    ("causal-64-grouped", 2, 1, 64, [1, 33, 5], True),
    ("causal-80", 2, 2, 80, [3, 18, 1], True),
    ("causal-128-grouped", 2, 1, 128, [1, 11], True),
    ("full-16", 3, 3, 16, [5, 1, 32, 65], False),
    ("full-64", 1, 1, 64, [17, 2], False),
    ("full-80-grouped", 4, 2, 80, [7, 1], False),
]
CROSS_ATTENTION = [  # name, H, h, query_length, key_lengths, owner
    ("8", 2, 8, 5, [1, 50, 3, 17, 7], [3, 0, 1, 1, 4, 2, 0, 3]),
    ("64", 2, 64, 3, [10, 1], [1, 0, 0]),
    ("one-of-each", 1, 8, 1, [1], [0]),
    ("32-queries", 1, 32, 32, [13], [0]),
    ("80-unused-user", 2, 80, 2, [4, 6, 2], [2, 0, 2]),
]


def cases():
    for name, H, h, lengths, layout, rotary_dim, theta, start in ROPE:
        random = Random(f"rope-{name}")
        T = sum(lengths)
        inputs = {"x": random.normal(T, H, h), "lengths": int32(lengths), "dy": random.normal(T, H, h)}
        params = {"layout": layout, "rotary_dim": rotary_dim, "theta": theta, "start": start}
        doc = (
            f"Rotary embedding ({layout}) of the first {rotary_dim} of {h} dimensions;"
            f" positions run from {start} in every sequence."
        )
        yield Case("rope", name, params, doc, inputs, rope)
    for name, H, G, h, lengths, causal in ATTENTION:
        random = Random(f"attention-{name}")
        T = sum(lengths)
        inputs = {
            "q": random.normal(T, H, h),
            "k": random.normal(T, G, h),
            "v": random.normal(T, G, h),
            "lengths": int32(lengths),
            "do": random.normal(T, H, h),
        }
        doc = f"Self-attention over packed sequences: {H} query heads of {h} over {G} key/value heads, causal {causal}."
        yield Case("attention", name, {"causal": causal}, doc, inputs, attention)
    for name, H, h, query_length, key_lengths, owner in CROSS_ATTENTION:
        random = Random(f"cross_attention-{name}")
        rows, keys = len(owner) * query_length, sum(key_lengths)
        inputs = {
            "q": random.normal(rows, H, h),
            "k": random.normal(keys, H, h),
            "v": random.normal(keys, H, h),
            "key_lengths": int32(key_lengths),
            "owner": int32(owner),
            "do": random.normal(rows, H, h),
        }
        doc = f"{len(owner)} query sequences of {query_length} rows over the keys of their owners; {H} heads of {h}."
        yield Case("cross_attention", name, {"query_length": query_length}, doc, inputs, cross_attention)
