"""adam: torch.optim.AdamW (Adam with decoupled weight decay) over two tensors, the joint gradient norm clipped."""

import numpy as np
import torch

from case import Case, Random


def adam(inputs, params):
    a, b = inputs["a0"].clone().requires_grad_(), inputs["b0"].clone().requires_grad_()
    optimiser = torch.optim.AdamW(
        [a, b], betas=params["betas"], eps=params["eps"], weight_decay=params["weight_decay"]
    )
    outputs = {}
    for n, lr in enumerate(inputs["lrs"].tolist()):
        optimiser.param_groups[0]["lr"] = lr
        a.grad, b.grad = inputs[f"ga{n}"].clone(), inputs[f"gb{n}"].clone()
        if params["clip"] is None:
            norm = torch.cat([a.grad.flatten(), b.grad.flatten()]).norm()
        else:
            norm = torch.nn.utils.clip_grad_norm_([a, b], params["clip"])  # returns the norm before clipping
        optimiser.step()
        outputs[f"norm{n}"] = norm
        outputs[f"a{n + 1}"], outputs[f"b{n + 1}"] = a.detach().clone(), b.detach().clone()
    return outputs


ADAM = [  # name, shape of a, shape of b, lrs, weight_decay, clip, betas, eps
    ("plain", (7, 13), (5,), [1e-3, 1e-3, 1e-3], 0.0, None, (0.9, 0.999), 1e-8),
    ("decay", (3, 5), (1,), [1e-2, 5e-3, 2e-3, 1e-3], 0.05, None, (0.9, 0.999), 1e-8),
    ("clip", (300,), (2, 3), [1e-3, 2e-3, 3e-3], 0.0, 1.0, (0.9, 0.999), 1e-8),
    ("clip-decay", (17,), (3,), [1e-2, 1e-2, 1e-2, 1e-2, 1e-2], 0.1, 4.0, (0.8, 0.95), 1e-6),
    ("one-step", (1,), (1,), [1e-4], 0.0, None, (0.9, 0.999), 1e-8),
]


def cases():
    for name, shape_a, shape_b, lrs, weight_decay, clip, betas, eps in ADAM:
        random = Random(f"adam-{name}")
        inputs = {
            "a0": random.normal(*shape_a),
            "b0": random.normal(*shape_b),
            "lrs": np.array(lrs, np.float32),
        }
        for n in range(len(lrs)):
            ga, gb = random.normal(*shape_a), random.normal(*shape_b)
            if ga.size > 2:
                ga.flat[0] = 0.0  # never moved but by decay
                ga.flat[1] *= 1e-7  # eps matters
            inputs[f"ga{n}"], inputs[f"gb{n}"] = ga, gb
        params = {"betas": list(betas), "eps": eps, "weight_decay": weight_decay, "clip": clip}
        doc = (
            f"{len(lrs)} steps of Adam, decoupled decay {weight_decay} (p *= 1 - lr decay),"
            f" joint norm clipped at {clip}."
        )
        yield Case("adam", name, params, doc, inputs, adam)
