"""ChatGLM2 from its published definition (multi-query attention, rotation of half a head as complex numbers), a tiny
random checkpoint and its dump."""

import math
import os

import torch

from case import Random
from decoder import Decoder, backbone_case, stored, write_checkpoint


class ChatGlm2(Decoder):
    embedding = "transformer.embedding.word_embeddings.weight"
    vocabulary = property(lambda self: self.config["padded_vocab_size"])
    width = property(lambda self: self.config["hidden_size"])

    def rms_norm(self, x, name):
        weight = self.weight(f"transformer.encoder.{name}.weight", x.dtype)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["layernorm_epsilon"]) * weight

    def linear(self, x, name):
        return x @ self.weight(f"transformer.encoder.{name}.weight", x.dtype).T

    def rotated(self, x):
        """x [T, heads, h]: the first half of a head as h / 4 complex numbers, number j times e^(i t 10000^(-2j/(h/2)))."""
        T, _, h = x.shape
        n = h // 2
        theta = 10000.0 ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
        angles = torch.outer(torch.arange(T, dtype=torch.float64), theta)
        turn = torch.complex(angles.cos().to(x.dtype), angles.sin().to(x.dtype))[:, None]
        numbers = torch.view_as_complex(x[..., :n].reshape(*x.shape[:-1], n // 2, 2))
        return torch.cat([torch.view_as_real(numbers * turn).flatten(-2), x[..., n:]], -1)

    def attention(self, x, layer):
        config = self.config
        T = x.shape[0]
        heads, groups, h = (
            config[key] for key in ("num_attention_heads", "multi_query_group_num", "kv_channels")
        )
        bias = self.weight(f"transformer.encoder.{layer}.query_key_value.bias", x.dtype)
        mixed = self.linear(x, f"{layer}.query_key_value") + bias
        q, k, v = (part.view(T, -1, h) for part in mixed.split([heads * h, groups * h, groups * h], -1))
        q, k = self.rotated(q), self.rotated(k)
        k, v = (
            part[:, :, None].expand(T, groups, heads // groups, h).reshape(T, heads, h) for part in (k, v)
        )
        scores = torch.einsum("thc,nhc->htn", q, k) / math.sqrt(h)
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
        o = torch.einsum("htn,nhc->thc", scores.softmax(-1), v).reshape(T, heads * h)
        return self.linear(o, f"{layer}.dense")

    def hidden_states(self, x):
        for n in range(self.config["num_layers"]):
            layer = f"layers.{n}"
            x = x + self.attention(self.rms_norm(x, f"{layer}.input_layernorm"), f"{layer}.self_attention")
            y = self.rms_norm(x, f"{layer}.post_attention_layernorm")
            gate, up = self.linear(y, f"{layer}.mlp.dense_h_to_4h").chunk(2, -1)
            x = x + self.linear(gate * torch.sigmoid(gate) * up, f"{layer}.mlp.dense_4h_to_h")
        return self.rms_norm(x, "final_layernorm")


CONFIG = dict(
    architectures=["ChatGLMModel"],
    model_type="chatglm",
    add_bias_linear=False,
    add_qkv_bias=True,
    apply_query_key_layer_scaling=True,
    apply_residual_connection_post_layernorm=False,
    attention_softmax_in_fp32=True,
    ffn_hidden_size=40,
    fp32_residual_connection=False,
    hidden_size=32,
    kv_channels=8,
    layernorm_epsilon=1e-5,
    multi_query_attention=True,
    multi_query_group_num=2,
    num_attention_heads=4,
    num_layers=2,
    original_rope=True,
    padded_vocab_size=89,
    post_layer_norm=True,
    rmsnorm=True,
    seq_length=64,
    tie_word_embeddings=False,
    torch_dtype="float16",
    eos_token_id=2,
    pad_token_id=0,
)


def write_tiny_checkpoint(folder):
    """F16, with the rotary buffer and the head that published files hold."""
    random = Random("chatglm2-tiny")
    d, inner, h = CONFIG["hidden_size"], CONFIG["ffn_hidden_size"], CONFIG["kv_channels"]
    mixed = (CONFIG["num_attention_heads"] + 2 * CONFIG["multi_query_group_num"]) * h
    weights = {ChatGlm2.embedding: random.normal(CONFIG["padded_vocab_size"], d)}
    weights["transformer.rotary_pos_emb.inv_freq"] = random.normal(h // 4)
    for n in range(CONFIG["num_layers"]):
        layer = f"transformer.encoder.layers.{n}"
        for part in ["input_layernorm", "post_attention_layernorm"]:
            weights[f"{layer}.{part}.weight"] = random.normal(d, scale=0.2, mean=1.0)
        weights[f"{layer}.self_attention.query_key_value.weight"] = random.normal(mixed, d, scale=d**-0.5)
        weights[f"{layer}.self_attention.query_key_value.bias"] = random.normal(mixed, scale=0.5)
        weights[f"{layer}.self_attention.dense.weight"] = random.normal(d, d, scale=d**-0.5)
        weights[f"{layer}.mlp.dense_h_to_4h.weight"] = random.normal(2 * inner, d, scale=d**-0.5)
        weights[f"{layer}.mlp.dense_4h_to_h.weight"] = random.normal(d, inner, scale=inner**-0.5)
    weights["transformer.encoder.final_layernorm.weight"] = random.normal(d, scale=0.2, mean=1.0)
    weights["transformer.output_layer.weight"] = random.normal(CONFIG["padded_vocab_size"], d)
    write_checkpoint(
        os.path.join(folder, "chatglm2-tiny"),
        CONFIG,
        {key: stored(value, CONFIG["torch_dtype"]) for key, value in weights.items()},
    )


def cases(folder):
    model = ChatGlm2(os.path.join(folder, "chatglm2-tiny"))
    yield backbone_case(model, "chatglm2-tiny", "chatglm2-tiny", [6, 1, 21], None, 3, 1, 2)
