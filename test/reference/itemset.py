"""iic (cross-entropy against all items at temperature tau) and rank (cosine scores, exact ranks, top list, metrics)."""

import torch

from case import Case, Random, gradients, int32, leaves, require_clear_head

MARGIN = 1e-5  # on cosines; f32 rounding moves them by about 1e-7
PADDING = -1  # fills the rows of `seen` that hold fewer items


def cosines(h, E):
    """cos(h_b, E_i) [B, I], a dot product at a time, so that identical rows of E give identical scores."""
    h = h / h.norm(dim=-1, keepdim=True)
    E = E / E.norm(dim=-1, keepdim=True)
    return (h[:, None, :] * E).sum(-1)


def iic_losses(h, E, target, tau):
    """Per user: (cross-entropy of the target among all items, natural log-sum-exp of cos / tau)."""
    logits = cosines(h, E) / tau
    lse = torch.logsumexp(logits, -1)
    return lse - logits.gather(1, target[:, None])[:, 0], lse


def iic(inputs, params):
    (h,) = leaves(inputs, "h")
    losses, lse = iic_losses(h, inputs["E"], inputs["target"], params["tau"])
    loss = losses.mean()
    return {"losses": losses, "lse": lse, "loss": loss, "dh": gradients(loss, [h])[0]}


def expected_rank(scores, target, candidate):
    """1 + (others scoring higher) + (others scoring equal) / 2, among the candidates [I] (bool)."""
    other = candidate.clone()
    other[target] = False
    higher = (scores > scores[target]) & other
    equal = (scores == scores[target]) & other
    return 1.0 + higher.sum().to(scores.dtype) + equal.sum().to(scores.dtype) / 2


def rank(inputs, params):
    scores = cosines(inputs["h"], inputs["E"])
    ranks, ranks_unseen = [], []
    for row, target, seen in zip(scores, inputs["target"].tolist(), inputs["seen"]):
        # Only the order at the head of the list and around the target reaches an output.
        require_clear_head(row, params["top"], MARGIN, "top", ties_allowed=True)
        require_clear_head(
            -(row - row[target]).abs(), int((row == row[target]).sum()), MARGIN, "rank", ties_allowed=True
        )
        candidate = torch.ones(len(row), dtype=torch.bool)
        ranks.append(expected_rank(row, target, candidate))
        candidate[seen[seen != PADDING]] = False
        ranks_unseen.append(expected_rank(row, target, candidate))
    ranks = torch.stack(ranks)
    top = torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, : params["top"]]
    hit = (ranks <= 10).to(ranks.dtype)
    return {
        "scores": scores,
        "rank": ranks,
        "rank_exclude_seen": torch.stack(ranks_unseen),
        "top": top,
        "top_scores": scores.gather(1, top),
        "recall10": hit.mean(),
        "ndcg10": (hit / torch.log2(ranks + 1)).mean(),
        "mrr": (1 / ranks).mean(),
    }


IIC = [
    (1, 1, 16, 0.05),
    (3, 7, 5, 0.05),
    (5, 203, 64, 0.05),
    (17, 65, 33, 0.05),
    (2, 1030, 8, 0.05),
    (3, 64, 2, 1.0),
]
RANK = [  # name, B, I, d, top, groups of identical rows of E, targets, seen
    ("one-item", 2, 1, 8, 1, [], [0, 0], [[-1, -1], [0, -1]]),
    (
        "ties",
        5,
        67,
        16,
        10,
        [(3, 11, 40), (0, 66), (20, 21)],
        [11, 0, 20, 5, 40],
        [[3, 3, -1, -1], [66, 0, 1, 2], [-1, -1, -1, -1], [5, 11, 40, 3], [-1, 11, -1, 7]],
    ),
    ("all-of-them", 3, 31, 7, 31, [(0, 30)], [30, 4, 17], [[0], [-1], [17]]),
    (
        "403-items",
        4,
        403,
        24,
        20,
        [(100, 200, 300, 400)],
        [400, 7, 402, 0],
        [[1, 2, 3], [7, -1, -1], [100, 200, -1], [402, 5, 5]],
    ),
    ("all-tied", 2, 13, 5, 4, [tuple(range(13))], [0, 12], [[1, 2], [12, -1]]),
]


def cases():
    for B, I, d, tau in IIC:
        name = f"{B}x{I}x{d}"
        random = Random(f"iic-{name}")
        inputs = {
            "h": random.normal(B, d, scale=3.0),
            "E": random.normal(I, d, scale=0.5),
            "target": random.ids(0, I, B),
        }
        doc = f"Cross-entropy of the target among {I} items of {d} for {B} users; h and E are not normalised."
        yield Case("iic", name, {"tau": tau}, doc, inputs, iic)
    for name, B, I, d, top, groups, targets, seen in RANK:
        random = Random(f"rank-{name}")
        E = random.normal(I, d)
        for group in groups:
            E[list(group)] = E[group[0]]
        h = random.normal(B, d)
        if groups and len(groups[0]) < I:
            # Ties high in the list, where `top` sees them.
            h[0] = E[groups[0][0]] + random.normal(d, scale=0.5)
        inputs = {"h": h, "E": E, "target": int32(targets), "seen": int32(seen)}
        doc = (
            f"Cosine ranks among {I} items; identical rows of E: {groups}. Rows of seen are padded with -1, may"
            " repeat an item and bear on rank_exclude_seen only, never on the target; top, recall10, ndcg10 and mrr are over all"
            " items, from rank; a hit is rank <= 10."
        )
        yield Case("rank", name, {"top": top}, doc, inputs, rank)
