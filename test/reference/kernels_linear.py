"""linear (y = x W^T + b, weights [out, in]) and conv1d (y = x W + b, weights [in, out] as GPT-2 stores them)."""

from case import Case, Random, gradients, leaves

SHAPES = [(1, 1, 1), (1, 16, 5), (7, 1, 3), (5, 13, 1), (3, 64, 8), (17, 31, 23), (67, 129, 65)]  # M, K, N


def linear(inputs, params):
    x, W, b = leaves(inputs, "x", "W", "b")
    y = x @ W.T + b
    dx, dW, db = gradients((y * inputs["dy"]).sum(), [x, W, b])
    return {"y": y, "dx": dx, "dW": dW, "db": db}


def conv1d(inputs, params):
    x, W, b = leaves(inputs, "x", "W", "b")
    y = x @ W + b
    dx, dW, db = gradients((y * inputs["dy"]).sum(), [x, W, b])
    return {"y": y, "dx": dx, "dW": dW, "db": db}


def cases():
    for kind, compute in [("linear", linear), ("conv1d", conv1d)]:
        # The largest shape once is enough: conv1d differs only in the layout of W.
        for M, K, N in SHAPES if kind == "linear" else SHAPES[:-1]:
            name = f"{M}x{K}x{N}"
            random = Random(f"{kind}-{name}")
            inputs = {
                "x": random.normal(M, K),
                "W": random.normal(*((N, K) if kind == "linear" else (K, N)), scale=K**-0.5),
                "b": random.normal(N),
                "dy": random.normal(M, N),
            }
            yield Case(kind, name, {}, f"{kind} with M={M}, K={K}, N={N}.", inputs, compute)
