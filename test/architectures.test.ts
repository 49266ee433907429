import { suite } from "uvu";
import * as assert from "uvu/assert";
import { UserError } from "../src/files/user-error.ts";
import { sizeOf } from "../src/gpu/tensor.ts";
import { parseDecoderConfig } from "../src/llm/config.ts";
import type { DecoderConfig, Rotary } from "../src/llm/decoder-config.ts";
import { sourceTensors, weightSources } from "../src/llm/decoder-weights.ts";
import { PUBLISHED } from "../src/llm/published.ts";
import { frequenciesOf } from "../src/llm/rotary.ts";
import { assertClose } from "./close.ts";

const t = suite("architectures");

const published = (name: string, change: Record<string, unknown> = {}): DecoderConfig =>
  parseDecoderConfig(`${name}/config.json`, { ...PUBLISHED[name].config, ...change });

/** Parameters of the published models as their cards state them, heads that are not tied included. */
const PARAMETERS: Record<string, number> = {
  gpt2: 124_439_808,
  "gpt2-medium": 354_823_168,
  "gpt2-large": 774_030_080,
  "gpt2-xl": 1_557_611_200,
  llama2: 6_738_415_616,
  chatglm2: 6_243_584_000,
  chatglm3: 6_243_584_000,
  llama3: 8_030_261_248,
  "llama3.2-1b": 1_235_814_400,
  "llama3.2-3b": 3_212_749_824,
  tinyllama: 1_100_048_384,
  mistral: 7_241_732_096,
  qwen2: 7_615_616_512,
  "qwen2.5-0.5b": 494_032_768,
  "qwen2.5-7b": 7_615_616_512,
  qwen3: 8_190_735_360,
  "qwen3-0.6b": 596_049_920,
};

t("every published geometry has the parameters of its model", () => {
  assert.equal(Object.keys(PUBLISHED).sort(), Object.keys(PARAMETERS).sort());
  for (const [name, { config: json }] of Object.entries(PUBLISHED)) {
    const config = published(name);
    const tensors = sourceTensors(weightSources(config));
    assert.is(new Set(tensors.map((tensor) => tensor.name)).size, tensors.length, name);
    let count = tensors.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    if (json.tie_word_embeddings === false) count += config.vocabularySize * config.hiddenSize;
    assert.is(count, PARAMETERS[name], name);
  }
});

t("each model's figure", () => {
  const figure = ({ norm, positions, queryKeyNorm, mlp, biases, linear }: DecoderConfig) => {
    const { kind } = positions;
    return { norm: norm.kind, positions: kind, queryKeyNorm, mlp, biases, linear };
  };
  const llama = {
    norm: "rms",
    positions: "rotary",
    queryKeyNorm: false,
    mlp: "swiglu",
    biases: "none",
    linear: "out-in",
  };
  assert.equal(figure(published("llama2")), llama);
  assert.equal(figure(published("llama3")), llama);
  assert.equal(figure(published("mistral")), llama);
  assert.equal(figure(published("qwen2")), { ...llama, biases: "qkv" });
  assert.equal(figure(published("chatglm2")), { ...llama, biases: "qkv" });
  assert.equal(figure(published("qwen3")), { ...llama, queryKeyNorm: true });
  assert.equal(figure(published("gpt2")), {
    norm: "layer",
    positions: "learned",
    queryKeyNorm: false,
    mlp: "gelu",
    biases: "all",
    linear: "in-out",
  });
  const rotary = { kind: "rotary", layout: "interleaved", dimensions: 64, theta: 10000, scaling: null };
  assert.equal(published("chatglm2").positions, rotary);
  assert.is(published("qwen3-0.6b").headSize * published("qwen3-0.6b").heads, 2048);
});

t("Llama 3's frequencies: short wavelengths stay, long ones are divided, those between lie between", () => {
  const { positions } = published("llama3");
  const plain = frequenciesOf({ ...(positions as Rotary), scaling: null });
  const scaled = frequenciesOf(positions as Rotary);
  const wavelengths = plain.map((frequency) => (2 * Math.PI) / frequency);
  const kept = wavelengths.filter((wavelength) => wavelength < 8192 / 4).length;
  const divided = wavelengths.filter((wavelength) => wavelength > 8192).length;
  assert.ok(kept > 0 && divided > 0 && kept + divided < 64);
  assertClose("short wavelengths", scaled.slice(0, kept), plain.slice(0, kept), 0);
  const long = plain.slice(64 - divided).map((frequency) => frequency / 8);
  assertClose("long wavelengths", scaled.slice(64 - divided), long, 1e-15);
  for (let i = kept; i < 64 - divided; i++) assert.ok(scaled[i] < plain[i] && scaled[i] > plain[i] / 8);
  // transformers 5 keeps the same values in rope_parameters.
  const { rope_scaling, rope_theta, ...rest } = PUBLISHED.llama3.config;
  const nested = { ...rest, rope_parameters: { ...(rope_scaling as object), rope_theta } };
  assert.equal(parseDecoderConfig("x", nested).positions, positions);
});

t("sliding windows bound the positions, where they are in use", () => {
  const limits = ({ maxPositions, positionLimit }: DecoderConfig) => [maxPositions, positionLimit];
  assert.equal(limits(published("mistral")), [4096, "sliding_window"]);
  assert.equal(limits(published("mistral", { sliding_window: null })), [32768, "max_position_embeddings"]);
  const absent = { ...PUBLISHED.mistral.config };
  delete absent.sliding_window;
  assert.equal(limits(parseDecoderConfig("x", absent)), [4096, "sliding_window"], "transformers' default");
  assert.is(published("qwen2", { sliding_window: 4096 }).maxPositions, 131072, "not in use");
  assert.is(published("qwen2", { sliding_window: 4096, use_sliding_window: true }).maxPositions, 4096);
  assert.is(published("qwen3", { sliding_window: 512, use_sliding_window: true }).maxPositions, 512);
});

t("fields that may be left out take Hugging Face's defaults", () => {
  const gpt2 = parseDecoderConfig("x", { model_type: "gpt2" });
  assert.equal(gpt2, { ...published("gpt2"), architecture: "GPT2LMHeadModel" });
  assert.is(published("gpt2", { n_inner: 100 }).intermediateSize, 100);
  assert.is(published("gpt2", { n_inner: null }).intermediateSize, 3072);
  assert.is(published("gpt2", { architectures: ["GPT2Model"] }).architecture, "GPT2Model");
  assert.is(published("qwen3", { head_dim: undefined }).headSize, 128);
  assert.is(published("mistral", { num_key_value_heads: undefined }).keyValueHeads, 8);
  assert.is(published("llama2", { num_key_value_heads: undefined }).keyValueHeads, 32);
  assert.is(published("chatglm2", { multi_query_attention: false }).keyValueHeads, 32);
  assert.is(published("chatglm2", { add_qkv_bias: false }).biases, "none");
});

t("values that the decoder does not run are refused by the name of their field", () => {
  const cases: [string, Record<string, unknown>, RegExp][] = [
    [
      "gpt2",
      { activation_function: "relu" },
      /field activation_function: expected "gelu_new" .*found "relu"/,
    ],
    ["gpt2", { scale_attn_weights: false }, /field scale_attn_weights: expected true/],
    [
      "gpt2",
      { scale_attn_by_inverse_layer_idx: true },
      /field scale_attn_by_inverse_layer_idx: expected false/,
    ],
    ["gpt2", { add_cross_attention: true }, /field add_cross_attention: expected false/],
    ["gpt2", { n_embd: 770 }, /field n_embd: expected a multiple of n_head \(12\)/],
    ["gpt2", { n_layer: 0 }, /field n_layer: expected a whole number/],
    ["gpt2", { quantization_config: {} }, /field quantization_config/],
    ["chatglm2", { rope_ratio: 50 }, /field rope_ratio: expected 1 .*found 50/],
    ["chatglm2", { rope_theta: 5000 }, /field rope_theta: expected 10000/],
    ["chatglm2", { add_bias_linear: true }, /field add_bias_linear: expected false/],
    ["chatglm2", { rmsnorm: false }, /field rmsnorm: expected true/],
    ["chatglm2", { post_layer_norm: false }, /field post_layer_norm: expected true/],
    ["chatglm2", { apply_residual_connection_post_layernorm: true }, /field apply_residual_connection/],
    ["chatglm2", { quantization_bit: 4 }, /field quantization_bit: expected 0/],
    ["chatglm2", { multi_query_group_num: 3 }, /field multi_query_group_num: expected a divisor of the 32/],
    ["chatglm2", { kv_channels: 6 }, /field kv_channels: expected a multiple of 4/],
    ["chatglm2", { ffn_hidden_size: undefined }, /field ffn_hidden_size: .*it is missing/],
    ["llama3", { attention_bias: true }, /field attention_bias: expected false/],
    ["llama3", { rope_scaling: { rope_type: "yarn", factor: 2 } }, /field rope_scaling: expected null, or/],
    ["mistral", { sliding_window: -1 }, /field sliding_window: expected a whole number/],
    ["qwen2", { use_mrope: true }, /field use_mrope: expected false/],
    ["qwen2", { use_sliding_window: "yes" }, /field use_sliding_window: expected true or false/],
    ["qwen3", { attention_bias: true }, /field attention_bias: expected false/],
    [
      "qwen3",
      { architectures: ["Qwen3MoeForCausalLM"] },
      /Qwen3MoeForCausalLM is not supported, expected one/,
    ],
  ];
  const scaling = PUBLISHED.llama3.config.rope_scaling as Record<string, unknown>;
  for (const [change, field] of [
    [{ factor: undefined }, "factor"],
    [{ low_freq_factor: 0 }, "low_freq_factor"],
    [{ high_freq_factor: 1 }, "high_freq_factor"],
    [{ original_max_position_embeddings: "x" }, "original_max_position_embeddings"],
  ] as const) {
    cases.push([
      "llama3",
      { rope_scaling: { ...scaling, ...change } },
      new RegExp(`field rope_scaling\\.${field}: expected`),
    ]);
  }
  for (const [name, change, pattern] of cases) {
    try {
      published(name, change);
    } catch (error) {
      assert.instance(error, UserError);
      assert.match((error as Error).message, pattern);
      continue;
    }
    assert.unreachable(`${name} ${JSON.stringify(change)} was accepted`);
  }
});

t.run();
