"""The works of bench/peers on PyTorch, for a machine that has it: python3 bench/peers/torch_peer.py [options]

    --device cuda|cpu   default: cuda where there is one
    --dtype f32 f16     which storage types to time; default: both on cuda, f32 on the CPU
    --quick             tiny cases
    --only PART         cases whose part or name holds PART
    --out FILE          the JSON there instead of to stdout

The cases, their names and the JSON's shape are those of run.js (cases.js), so that the two can be laid side by side;
inputs are random and PyTorch's own. Attention is torch.nn.functional.scaled_dot_product_attention, whose kernel PyTorch
chooses. Every result is checked, whole, against the same work in float64 before it is timed. f32 is f32: TF32 is off.
Timed: repetitions of about 100 ms a round, then the wait for the device; inputs and outputs stay on it.
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("PyTorch is not installed: install torch 2.0 or later")
if not hasattr(F, "scaled_dot_product_attention"):
    sys.exit(f"PyTorch {torch.__version__} has no scaled_dot_product_attention: install torch 2.0 or later")

ROUND_SECONDS = 0.1
MOST_REPETITIONS = 1000
# The largest error that counts as right, over the root mean square of the expected values. f32 as in reference.js.
TOLERANCES = {"f32": 1e-3, "f16": 2e-2}
DTYPES = {"f32": torch.float32, "f16": torch.float16}
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
COMPARED = 5


def product(m, k, n):
    return case(f"product [{m} x {k}] x [{k} x {n}]", "product", "product", m=m, k=k, n=n)


def attention(length, gradient, heads=12, size=64):
    name = f"causal attention forward{' and backward' if gradient else ''}, {heads} x {size}, {length} tokens"
    kind = "attention-gradient" if gradient else "attention"
    return case(name, "attention", kind, heads=heads, headSize=size, length=length)


def cross(users, heads=12, size=64, keys=50):
    name = f"cross-attention, {heads} x {size}, {users} x (32 queries, {keys} keys)"
    shape = {"users": users, "heads": heads, "headSize": size, "queries": 32, "keys": keys}
    return case(name, "cross-attention", "cross-attention", **shape)


def item_set(queries, items, width):
    shape = {"queries": queries, "items": items, "width": width}
    of = f"{queries} x {items} x {width}"
    return [
        case(f"log-sum-exp over items, {of}", "log-sum-exp", "log-sum-exp", **shape),
        case(f"top 10 of the items, {of}", "top-items", "top-items", **shape, k=10),
    ]


def training(layers, width, heads, vocabulary, batch, length):
    name = f"training step, {layers} layers, d {width}, vocabulary {vocabulary}, {batch} x {length} tokens"
    shape = {"layers": layers, "width": width, "heads": heads}
    return case(name, "training", "training", **shape, vocabulary=vocabulary, batch=batch, length=length)


def case(name, part, kind, **shape):
    return {"name": name, "part": part, "kind": kind, "shape": shape}


FULL = [
    product(256, 256, 256),
    product(512, 512, 512),
    product(1024, 1024, 1024),
    product(96, 768, 3072),
    attention(256, False),
    attention(512, False),
    attention(256, True),
    attention(512, True),
    cross(12),
    *item_set(32, 20000, 256),
    training(4, 128, 2, 1024, 4, 128),
]
QUICK = [
    product(64, 64, 128),
    attention(64, False, 2, 64),
    attention(64, True, 2, 64),
    cross(2, 2, 64, 64),
    *item_set(8, 1024, 64),
    training(1, 64, 1, 64, 1, 64),
]


def attend(q, k, v, causal):
    """softmax(q k^T / sqrt(h)) v, written out: the float64 reference."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    return scores.softmax(-1) @ v


class Transformer(torch.nn.Module):
    """transformer.js: GPT-2's layers, GELU by tanh, output tied to the token embedding."""

    def __init__(self, shape, reference):
        super().__init__()
        d, self.heads, self.reference = shape["width"], shape["heads"], reference
        self.tokens = torch.nn.Embedding(shape["vocabulary"], d)
        self.positions = torch.nn.Embedding(shape["length"], d)
        layer = lambda: torch.nn.ModuleDict(
            {
                "norm1": torch.nn.LayerNorm(d),
                "qkv": torch.nn.Linear(d, 3 * d),
                "out": torch.nn.Linear(d, d),
                "norm2": torch.nn.LayerNorm(d),
                "up": torch.nn.Linear(d, 4 * d),
                "down": torch.nn.Linear(4 * d, d),
            }
        )
        self.layers = torch.nn.ModuleList([layer() for _ in range(shape["layers"])])
        self.norm = torch.nn.LayerNorm(d)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.02)
            elif "norm" not in name:
                torch.nn.init.zeros_(parameter)

    def forward(self, ids, following):
        batch, length = ids.shape
        x = self.tokens(ids) + self.positions.weight
        for layer in self.layers:
            qkv = layer["qkv"](layer["norm1"](x)).view(batch, length, 3, self.heads, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            if self.reference:
                o = attend(q, k, v, True)
            else:
                o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["out"](o.transpose(1, 2).reshape(batch, length, -1))
            x = x + layer["down"](F.gelu(layer["up"](layer["norm2"](x)), approximate="tanh"))
        logits = self.norm(x) @ self.tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), following.flatten())


def tokens_of(shape):
    """The batch of tokensOf in transformer.js."""
    rows = []
    for b in range(shape["batch"]):
        row = [(b * 37 + 11) % shape["vocabulary"]]
        for _ in range(shape["length"]):
            row.append((row[-1] * 5 + 7) % shape["vocabulary"])
        rows.append(row)
    return torch.tensor(rows)


def work(each, dtype, device):
    """(run() -> results by name, results expected in float64)."""
    kind, shape = each["kind"], each["shape"]
    torch.manual_seed(1)
    random = lambda *dims: (torch.rand(dims, device=device) * 2 - 1).to(dtype)
    if kind == "product":
        x, w = random(shape["m"], shape["k"]), random(shape["n"], shape["k"])
        return lambda: {"y": F.linear(x, w)}, {"y": F.linear(x.double(), w.double())}
    if kind in ("attention", "attention-gradient", "cross-attention"):
        causal = kind != "cross-attention"
        users, heads, size = shape.get("users", 1), shape["heads"], shape["headSize"]
        queries = shape.get("queries", shape.get("length"))
        keys = shape.get("keys", shape.get("length"))
        # Rows hold the heads side by side, as a projection leaves them.
        rows = [random(users, n, heads, size).transpose(1, 2) for n in (queries, keys, keys)]
        exact = [x.detach().double().requires_grad_() for x in rows]
        expected = {"o": attend(*exact, causal)}
        if kind != "attention-gradient":
            run = lambda: {"o": F.scaled_dot_product_attention(*rows, is_causal=causal)}
            return torch.no_grad()(run), expected
        dO = random(users, queries, heads, size).transpose(1, 2)
        names = ("dq", "dk", "dv")
        expected.update(zip(names, torch.autograd.grad(expected["o"], exact, dO.double())))
        leaves = [x.detach().requires_grad_() for x in rows]

        def both():
            o = F.scaled_dot_product_attention(*leaves, is_causal=True)
            return {"o": o, **dict(zip(names, torch.autograd.grad(o, leaves, dO)))}

        return both, expected
    if kind in ("log-sum-exp", "top-items"):
        unit = lambda *dims: F.normalize(torch.rand(dims, device=device) * 2 - 1, dim=-1)
        h = (unit(shape["queries"], shape["width"]) * 20).to(dtype)
        items = unit(shape["items"], shape["width"]).to(dtype)
        scores = h.double() @ items.double().T
        if kind == "log-sum-exp":
            return lambda: {"lse": torch.logsumexp(h @ items.T, -1)}, {"lse": torch.logsumexp(scores, -1)}
        best = torch.topk(scores, shape["k"]).values

        def top():
            found = torch.topk(h @ items.T, shape["k"])
            return {"scores": found.values, "ids": found.indices}

        # Ids are judged by their float64 scores: equal ones may change places.
        return top, {"scores": best, "ids": lambda ids: (torch.gather(scores, 1, ids), best)}
    return train(shape, dtype, device)


def train(shape, dtype, device):
    rows = tokens_of(shape).to(device)
    ids, following = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    exact = Transformer(shape, reference=True).to(device).double()
    model = Transformer(shape, reference=False).to(device)
    model.load_state_dict({name: value.float() for name, value in exact.state_dict().items()})

    def updates(model, autocast):
        optimizer = torch.optim.Adam(model.parameters(), **ADAM)

        def update():
            with torch.autocast(device, torch.float16) if autocast else contextlib.nullcontext():
                loss = model(ids, following)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        return update

    slow, fast = updates(exact, False), updates(model, dtype == torch.float16)
    expected = torch.stack([slow() for _ in range(COMPARED)])
    found = torch.stack([fast() for _ in range(COMPARED)])
    pending = [found]
    # The first call answers with the losses that are compared, the later ones train on.
    return lambda: {"losses": pending.pop() if pending else fast()}, {"losses": expected}


def error_of(actual, expected):
    if callable(expected):
        actual, expected = expected(actual)
    error = (actual.double() - expected).abs().max() / expected.square().mean().sqrt()
    return float(error) if torch.isfinite(error) else math.inf


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def measure(each, name, device, rounds):
    entry = {"engine": f"torch {name}", "form": "", "none": None, "failed": None, "error": None, "times": []}
    if name == "f16" and device == "cpu" and each["kind"] == "training":
        return {**entry, "none": "autocast in f16 needs a GPU"}
    try:
        run, expected = work(each, DTYPES[name], device)
        results = run()
        entry["error"] = max(error_of(results[key], value) for key, value in expected.items())

        def timed(repetitions):
            wait(device)
            start = time.perf_counter()
            for _ in range(repetitions):
                run()
            wait(device)
            return (time.perf_counter() - start) / repetitions

        timed(1)
        estimate = min(timed(1), timed(1))
        repetitions = min(MOST_REPETITIONS, max(1, round(ROUND_SECONDS / estimate)))
        entry["repetitions"] = repetitions
        entry["times"] = [1000 * timed(repetitions) for _ in range(rounds)]
    except (RuntimeError, NotImplementedError) as problem:
        entry["failed"] = str(problem).split("\n")[0]
    return entry


def cell(entry):
    if entry["none"]:
        return "none"
    if entry["failed"]:
        return f"failed ({entry['failed']})"
    times = sorted(entry["times"])
    text = f"{times[len(times) // 2]:.3f} ({times[0]:.3f} .. {times[-1]:.3f})"
    right = entry["error"] <= TOLERANCES[entry["engine"].split()[-1]]
    return text if right else f"wrong (error {100 * entry['error']:.2g} %), {text}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--out")
    options = parser.parse_args()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: this PyTorch finds no CUDA device; use --device cpu")
    dtypes = options.dtype or (["f32", "f16"] if device == "cuda" else ["f32"])
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    rounds = 5 if options.quick else 9
    cases = [
        each
        for each in (QUICK if options.quick else FULL)
        if options.only in each["part"] or options.only in each["name"]
    ]
    if not cases:
        sys.exit(f"--only {options.only}: no case's part or name holds it")
    adapter = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"PyTorch {torch.__version__}, {adapter}; milliseconds: median (least .. most)", file=sys.stderr)
    results = []
    for each in cases:
        entries = [measure(each, name, device, rounds) for name in dtypes]
        results.append({"case": each, "load": list(os.getloadavg())[:1], "entries": entries, "verdict": None})
        cells = "; ".join(f"{entry['engine']} {cell(entry)}" for entry in entries)
        print(f"{each['name']}: {cells}", file=sys.stderr)
    report = {
        "title": "This project against others: PyTorch",
        "date": datetime.date.today().isoformat(),
        "host": f"{os.cpu_count()} cores",
        "engines": [{"engine": f"torch {name}", "adapter": adapter, "version": torch.__version__} for name in dtypes],
        "rounds": rounds,
        "tolerance": TOLERANCES,
        "load": list(os.getloadavg()),
        "results": results,
    }
    text = json.dumps(report, indent=2)
    if options.out:
        with open(options.out, "w", encoding="utf8") as file:
            file.write(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
