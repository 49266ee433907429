"""Llama 3 (scaled frequencies), Mistral, Qwen2 and Qwen3, each from its published definition, with tiny random
checkpoints and backbone dumps."""

import math
import os

import torch

from case import Random
from decoder import BOS, Decoder, backbone_case, stored, write_checkpoint


class Family(Decoder):
    """RMSNorm, rotary positions as cos * x + sin * rotate_half(x), grouped attention, gated MLP."""

    embedding = "model.embed_tokens.weight"
    vocabulary = property(lambda self: self.config["vocab_size"])
    width = property(lambda self: self.config["hidden_size"])

    def rms_norm(self, x, name):
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight(f"{name}.weight", x.dtype) * (
            x * torch.rsqrt(variance + self.config["rms_norm_eps"])
        )

    def linear(self, x, name):
        y = torch.nn.functional.linear(x, self.weight(f"{name}.weight", x.dtype))
        return y + self.weight(f"{name}.bias", x.dtype) if f"{name}.bias" in self._weights else y

    def frequencies(self, h):
        return self.config["rope_theta"] ** (-torch.arange(0, h, 2, dtype=torch.float64) / h)

    def normed_heads(self, q, k, layer):
        return q, k

    def mask(self, T):
        """True where query t may not see key n."""
        return torch.ones(T, T, dtype=torch.bool).triu(1)

    def attention(self, x, layer):
        config = self.config
        H, G = config["num_attention_heads"], config["num_key_value_heads"]
        h = config.get("head_dim") or config["hidden_size"] // H
        T = x.shape[0]
        q = self.linear(x, f"{layer}.q_proj").view(T, H, h).transpose(0, 1)
        k = self.linear(x, f"{layer}.k_proj").view(T, G, h).transpose(0, 1)
        v = self.linear(x, f"{layer}.v_proj").view(T, G, h).transpose(0, 1)
        q, k = self.normed_heads(q, k, layer)
        angles = torch.outer(torch.arange(T, dtype=torch.float64), self.frequencies(h))
        angles = torch.cat([angles, angles], -1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)

        def rotated(y):
            half = torch.cat([-y[..., h // 2 :], y[..., : h // 2]], -1)
            return y * cos + half * sin

        q, k = rotated(q), rotated(k)
        k, v = (y.repeat_interleave(H // G, 0) for y in (k, v))
        scores = q @ k.transpose(1, 2) / math.sqrt(h)
        scores = scores.masked_fill(self.mask(T), -torch.inf)
        o = (scores.softmax(-1) @ v).transpose(0, 1).reshape(T, H * h)
        return self.linear(o, f"{layer}.o_proj")

    def hidden_states(self, x):
        for n in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{n}"
            x = x + self.attention(self.rms_norm(x, f"{layer}.input_layernorm"), f"{layer}.self_attn")
            y = self.rms_norm(x, f"{layer}.post_attention_layernorm")
            gate = torch.nn.functional.silu(self.linear(y, f"{layer}.mlp.gate_proj"))
            x = x + self.linear(gate * self.linear(y, f"{layer}.mlp.up_proj"), f"{layer}.mlp.down_proj")
        return self.rms_norm(x, "model.norm")


class Llama3(Family):
    """Frequencies stretched as the Llama 3.1 release does it, wavelength by wavelength."""

    def frequencies(self, h):
        scaling = self.config["rope_scaling"]
        low = scaling["original_max_position_embeddings"] / scaling["low_freq_factor"]
        high = scaling["original_max_position_embeddings"] / scaling["high_freq_factor"]
        new = []
        for frequency in super().frequencies(h).tolist():
            wavelength = 2 * math.pi / frequency
            if wavelength < high:
                new.append(frequency)
            elif wavelength > low:
                new.append(frequency / scaling["factor"])
            else:
                smooth = (
                    scaling["original_max_position_embeddings"] / wavelength - scaling["low_freq_factor"]
                ) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
                new.append((1 - smooth) * frequency / scaling["factor"] + smooth * frequency)
        return torch.tensor(new, dtype=torch.float64)


class Mistral(Family):
    """Attends to the nearest `sliding_window` rows, itself among them."""

    def mask(self, T):
        distance = torch.arange(T)[:, None] - torch.arange(T)[None, :]
        return (distance < 0) | (distance >= self.config["sliding_window"])


class Qwen2(Family):
    """Biases on q, k and v: `linear` finds them."""


class Qwen3(Family):
    """Every query and key head passes an RMS norm of its own before the rotation."""

    def normed_heads(self, q, k, layer):
        return self.rms_norm(q, f"{layer}.q_norm"), self.rms_norm(k, f"{layer}.k_norm")


COMMON = dict(hidden_act="silu", bos_token_id=BOS, eos_token_id=2, rms_norm_eps=1e-5, torch_dtype="bfloat16")
TINY = {
    "llama3-tiny": (
        Llama3,
        dict(
            architectures=["LlamaForCausalLM"],
            model_type="llama",
            hidden_size=32,
            intermediate_size=44,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=71,
            max_position_embeddings=512,
            rope_theta=500.0,
            # Of the 8 frequencies two are kept, one is between, five are divided.
            rope_scaling=dict(
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
                rope_type="llama3",
            ),
            tie_word_embeddings=True,
        ),
    ),
    "mistral-tiny": (
        Mistral,
        dict(
            architectures=["MistralForCausalLM"],
            model_type="mistral",
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            vocab_size=67,
            max_position_embeddings=512,
            sliding_window=24,
            rope_theta=10000.0,
            tie_word_embeddings=False,
        ),
    ),
    "qwen2-tiny": (
        Qwen2,
        dict(
            architectures=["Qwen2ForCausalLM"],
            model_type="qwen2",
            hidden_size=24,
            intermediate_size=36,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=73,
            max_position_embeddings=128,
            max_window_layers=2,
            use_sliding_window=False,
            sliding_window=16,
            rope_theta=1000000.0,
            tie_word_embeddings=True,
        ),
    ),
    "qwen3-tiny": (
        Qwen3,
        dict(
            architectures=["Qwen3ForCausalLM"],
            model_type="qwen3",
            attention_bias=False,
            head_dim=16,
            hidden_size=24,
            intermediate_size=36,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=79,
            max_position_embeddings=128,
            use_sliding_window=False,
            sliding_window=None,
            rope_scaling=None,
            rope_theta=1000000.0,
            tie_word_embeddings=True,
        ),
    ),
}


def tiny_weights(name, model, config):
    random = Random(name)
    d, inner, H = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    h = config.get("head_dim") or d // H
    kv = h * config["num_key_value_heads"]
    weights = {"model.embed_tokens.weight": random.normal(config["vocab_size"], d)}
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        for part, rows, columns in [
            ("self_attn.q_proj", h * H, d),
            ("self_attn.k_proj", kv, d),
            ("self_attn.v_proj", kv, d),
            ("self_attn.o_proj", d, h * H),
            ("mlp.gate_proj", inner, d),
            ("mlp.up_proj", inner, d),
            ("mlp.down_proj", d, inner),
        ]:
            weights[f"{layer}.{part}.weight"] = random.normal(rows, columns, scale=columns**-0.5)
            if model is Qwen2 and part[-6:] in ("q_proj", "k_proj", "v_proj"):
                weights[f"{layer}.{part}.bias"] = random.normal(rows, scale=0.5)
        if model is Qwen3:
            for part in ["q_norm", "k_norm"]:
                weights[f"{layer}.self_attn.{part}.weight"] = random.normal(h, scale=0.3, mean=1.0)
        for part in ["input_layernorm", "post_attention_layernorm"]:
            weights[f"{layer}.{part}.weight"] = random.normal(d, scale=0.2, mean=1.0)
    weights["model.norm.weight"] = random.normal(d, scale=0.2, mean=1.0)
    return weights


def write_tiny_checkpoints(folder):
    for name, (model, config) in TINY.items():
        weights = tiny_weights(name, model, config)
        weights = {key: stored(value, COMMON["torch_dtype"]) for key, value in weights.items()}
        write_checkpoint(os.path.join(folder, name), {**COMMON, **config}, weights)


BACKBONE = [  # checkpoint, text lengths, L, s, text_sequence
    ("llama3-tiny", [3, 70, 11], 2, 1, 1),
    ("mistral-tiny", [1, 22, 9], 1, 1, 1),  # the second fills the window
    ("qwen2-tiny", [5, 13], 3, 2, 0),
    ("qwen3-tiny", [8, 1, 14], 2, 1, 2),
]


def cases(folder):
    for checkpoint, lengths, L, s, text_sequence in BACKBONE:
        model = TINY[checkpoint][0](os.path.join(folder, checkpoint))
        yield backbone_case(model, checkpoint, checkpoint, lengths, None, L, s, text_sequence)
