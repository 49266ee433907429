"""GPT-2 from its published definition (Conv1D layers, learned positions), a tiny random checkpoint and its dumps."""

import math
import os

import numpy as np
import torch

from case import Random
from decoder import Decoder, backbone_case, write_checkpoint


class Gpt2(Decoder):
    embedding = "wte.weight"
    vocabulary = property(lambda self: self.config["vocab_size"])
    width = property(lambda self: self.config["n_embd"])

    def conv1d(self, x, name):
        return x @ self.weight(f"{name}.weight", x.dtype) + self.weight(f"{name}.bias", x.dtype)

    def layer_norm(self, x, name):
        weight, bias = (self.weight(f"{name}.{part}", x.dtype) for part in ("weight", "bias"))
        return torch.nn.functional.layer_norm(
            x, x.shape[-1:], weight, bias, self.config["layer_norm_epsilon"]
        )

    def attention(self, x, layer):
        T, d = x.shape
        heads = self.config["n_head"]
        q, k, v = (
            part.view(T, heads, d // heads).transpose(0, 1)
            for part in self.conv1d(x, f"{layer}.c_attn").split(d, -1)
        )
        scores = q @ k.transpose(1, 2) / math.sqrt(d // heads)
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
        return self.conv1d((scores.softmax(-1) @ v).transpose(0, 1).reshape(T, d), f"{layer}.c_proj")

    def hidden_states(self, x):
        def gelu_new(y):
            return 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))

        x = x + self.weight("wpe.weight", x.dtype)[: x.shape[0]]
        for n in range(self.config["n_layer"]):
            x = x + self.attention(self.layer_norm(x, f"h.{n}.ln_1"), f"h.{n}.attn")
            y = gelu_new(self.conv1d(self.layer_norm(x, f"h.{n}.ln_2"), f"h.{n}.mlp.c_fc"))
            x = x + self.conv1d(y, f"h.{n}.mlp.c_proj")
        return self.layer_norm(x, "ln_f")


CONFIG = dict(
    activation_function="gelu_new",
    architectures=["GPT2LMHeadModel"],
    bos_token_id=82,
    eos_token_id=82,
    layer_norm_epsilon=1e-5,
    model_type="gpt2",
    n_ctx=32,
    n_embd=24,
    n_head=3,
    n_layer=2,
    n_positions=32,
    vocab_size=83,
)


def write_tiny_checkpoint(folder):
    """F32 without a prefix, with the mask buffers that published files hold."""
    random = Random("gpt2-tiny")
    d, n_positions = CONFIG["n_embd"], CONFIG["n_positions"]
    weights = {"wte.weight": random.normal(CONFIG["vocab_size"], d)}
    weights["wpe.weight"] = random.normal(n_positions, d, scale=0.5)
    for n in range(CONFIG["n_layer"]):
        for norm in ["ln_1", "ln_2"]:
            weights[f"h.{n}.{norm}.weight"] = random.normal(d, scale=0.2, mean=1.0)
            weights[f"h.{n}.{norm}.bias"] = random.normal(d, scale=0.2)
        for part, into, out in [
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, 4 * d),
            ("mlp.c_proj", 4 * d, d),
        ]:
            weights[f"h.{n}.{part}.weight"] = random.normal(into, out, scale=into**-0.5)
            weights[f"h.{n}.{part}.bias"] = random.normal(out, scale=0.3)
        mask = np.tril(np.ones((n_positions, n_positions), np.float32))
        weights[f"h.{n}.attn.bias"] = mask[None, None]
    weights["ln_f.weight"] = random.normal(d, scale=0.2, mean=1.0)
    weights["ln_f.bias"] = random.normal(d, scale=0.2)
    write_checkpoint(os.path.join(folder, "gpt2-tiny"), CONFIG, weights)


def cases(folder):
    model = Gpt2(os.path.join(folder, "gpt2-tiny"))
    # The second sequence of the first case takes every position: 3 + 27 + 2.
    yield backbone_case(model, "gpt2-tiny", "gpt2-tiny", [1, 27, 8], None, 3, 2, 1)
    yield backbone_case(model, "gpt2-tiny-text-only", "gpt2-tiny", [7, 32], None, 0, 0, 1)
