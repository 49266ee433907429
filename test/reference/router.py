"""router (probabilities, top-k gates, load balancing) and aggregate (gate-weighted sum of experts, projected)."""

import torch

from case import Case, Random, gradients, int32, leaves, require_clear_head, split_rows

MARGIN = 1e-5  # on probabilities; f32 rounding moves them by about 1e-7


def probabilities(C, W_r):
    """P = softmax(C W_r^T), a dot product at a time, so that identical rows of W_r give identical columns."""
    return (C[:, None, :] * W_r).sum(-1).softmax(-1)


def first_argmax(P):
    """Index of the largest entry of every row, ties to the lower index."""
    return (P == P.max(-1, keepdim=True).values).to(torch.int64).argmax(-1)


def top_k(w, k):
    """Indices of the k largest, highest first, ties to the lower index."""
    return torch.sort(w, dim=-1, descending=True, stable=True).indices[..., :k]


def gate_values(chosen, gates):
    """Gates of the chosen experts' weights [..., k]: the weights, their softmax, or their share of the sum."""
    if gates == "weights":
        return chosen
    if gates == "softmax":
        return chosen.softmax(-1)
    return chosen / chosen.sum(-1, keepdim=True)


def argmax_counts(P):
    """How many rows of P have their largest entry at each expert [K]."""
    return torch.bincount(first_argmax(P), minlength=P.shape[-1])


def load_balancing(parts, mode):
    """K sum_j f_j w_j, f_j without gradient: per user then averaged (`sequence`), or over all positions (`batch`)."""
    if mode == "batch":
        parts = [torch.cat(list(parts))]
    terms = [P.shape[-1] * (argmax_counts(P) / P.shape[0] * P.mean(0)).sum() for P in parts]
    return torch.stack(terms).mean()


def router(inputs, params):
    (W_r,) = leaves(inputs, "W_r")
    P = probabilities(inputs["C"], W_r)
    parts = split_rows(P, inputs["lengths"])
    w = torch.stack([part.mean(0) for part in parts])
    for row in P:
        require_clear_head(row, 1, MARGIN, "argmax", ties_allowed=True)
    for row in w:
        require_clear_head(row, params["k"], MARGIN, "top k", ties_allowed=True)
    top = top_k(w, params["k"])
    chosen = torch.gather(w, 1, top)
    outputs = {
        "P": P,
        "w": w,
        "top": top,
        "argmax_counts": torch.stack([argmax_counts(part) for part in parts]),
    }
    for gates in ["weights", "softmax", "normalized"]:
        g = gate_values(chosen, gates)
        outputs[f"gates_{gates}"] = g
        outputs[f"dW_r_{gates}"] = gradients((g * inputs[f"dgates_{gates}"]).sum(), [W_r])[0]
    for mode in ["sequence", "batch"]:
        loss = load_balancing(parts, mode)
        outputs[f"lb_{mode}"] = loss
        outputs[f"dW_r_lb_{mode}"] = gradients(loss, [W_r])[0]
    return outputs


def aggregate(inputs, params):
    Q, g, W_out, b_out = leaves(inputs, "Q", "g", "W_out", "b_out")
    prefix = (g[:, :, None, None] * Q).sum(1) @ W_out.T + b_out
    dQ, dg, dW_out, db_out = gradients((prefix * inputs["dprefix"]).sum(), [Q, g, W_out, b_out])
    return {"prefix": prefix, "dQ": dQ, "dg": dg, "dW_out": dW_out, "db_out": db_out}


ROUTER = [  # name, d_c, K, k, lengths, identical rows of W_r (each pair: the second becomes the first)
    ("8-of-3", 64, 8, 3, [1, 5, 10, 50, 3], []),
    ("one-expert", 7, 1, 1, [1, 4], []),
    ("ties", 16, 5, 2, [1, 6, 2, 9, 3, 4, 1, 5], [(0, 4), (1, 3)]),
    ("all-tied", 9, 4, 3, [2, 1, 5], [(0, 1), (0, 2), (0, 3)]),
    ("all-chosen", 12, 7, 7, [3, 1], []),
    ("37-experts", 8, 37, 5, [1, 4], []),
]
AGGREGATE = [(1, 1, 1, 1, 1), (3, 2, 5, 24, 20), (2, 3, 7, 13, 33), (1, 3, 32, 16, 8)]  # B, k, L, d_m, d


def cases():
    for name, d_c, K, k, lengths, twins in ROUTER:
        random = Random(f"router-{name}")
        W_r = random.normal(K, d_c, scale=1.5 * d_c**-0.5)
        for first, second in twins:
            W_r[second] = W_r[first]
        B = len(lengths)
        inputs = {"C": random.normal(sum(lengths), d_c), "lengths": int32(lengths), "W_r": W_r}
        for gates in ["weights", "softmax", "normalized"]:
            inputs[f"dgates_{gates}"] = random.normal(B, k)
        doc = f"Top {k} of {K} experts" + (
            f"; identical rows of W_r: {twins}, ties to the lower index." if twins else "."
        )
        yield Case("router", name, {"k": k}, doc, inputs, router)
    for B, k, L, d_m, d in AGGREGATE:
        name = f"{B}x{k}x{L}x{d_m}x{d}"
        random = Random(f"aggregate-{name}")
        inputs = {
            "Q": random.normal(B, k, L, d_m),
            "g": random.normal(B, k, scale=0.2, mean=0.5),
            "W_out": random.normal(d, d_m, scale=d_m**-0.5),
            "b_out": random.normal(d),
            "dprefix": random.normal(B, L, d),
        }
        doc = f"(sum over {k} experts of g Q) W_out^T + b_out for {B} users, L={L}, d_m={d_m}, d={d}."
        yield Case("aggregate", name, {}, doc, inputs, aggregate)
