import { copyFileSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { openSafetensors, type TensorToWrite, writeSafetensors } from "../src/files/safetensors.ts";
import { UserError } from "../src/files/user-error.ts";
import { ARCHITECTURES } from "../src/llm/architectures/table.ts";
import { everyWeight } from "../src/llm/decoder-weights.ts";
import { loadDecoder } from "../src/llm/load.ts";
import { promptBatch } from "../src/llm/prompt.ts";
import { writeRandomCheckpoint } from "../src/llm/random-checkpoint.ts";
import { assertClose } from "./close.ts";
import { type DecoderResult, ids, PREFIX, runDecoder, SUFFIX } from "./decoder-case.ts";
import { openTestGpu } from "./gpu.ts";
import { repositoryPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";
import { KERNEL_F32 } from "./tolerances.ts";

const t = suite("the frozen decoder");
const gpu = await openTestGpu();
// Tensor cores round to f16, and products of few rows do not run on them: to the bit holds without (decoder-matrix-case.ts with).
gpu.subgroupMatrix = null;
t.after(() => gpu.close());
const folder = temporaryFolder();

const DUMPS = repositoryPath("test/reference/dumps");
const TINY = readdirSync(DUMPS).filter((name) => !name.includes("."));

t("every architecture has a tiny checkpoint", async () => {
  assert.ok(TINY.length >= ARCHITECTURES.length, TINY.join());
});

for (const name of TINY) {
  for (const weights of ["f32", "f16"] as const) {
    t(
      `${name}, ${weights}: sequences packed into one call give what each gives alone, to the bit`,
      async () => {
        const decoder = await loadDecoder(gpu, join(DUMPS, name), { weights });
        const d = decoder.hiddenSize;
        // Few and many rows: products choose their tiles by the number of rows, which must not show.
        const texts = [1, 14, 3, 1, 9, 13].map((length) => ids(length, decoder.config.vocabularySize));
        const together = await runDecoder(gpu, decoder, texts, [0, 1, 2, 3, 4, 5]);
        for (const [b, text] of texts.entries()) {
          const alone = await runDecoder(gpu, decoder, [text], [b]);
          const of = (values: Float32Array, rows: number) => values.slice(b * rows * d, (b + 1) * rows * d);
          assert.equal(of(together.hidden, 1), alone.hidden, `hidden state ${b}`);
          assert.equal(of(together.gradients, PREFIX + SUFFIX), alone.gradients, `gradients ${b}`);
        }
        decoder.release(gpu);
      },
    );
  }
}

t("a sequence longer than the model's positions is refused by the field that limits it", async () => {
  for (const [name, most, field] of [
    ["gpt2-tiny", 32, "n_positions"],
    ["mistral-tiny", 24, "sliding_window"],
    ["chatglm2-tiny", 64, "seq_length"],
    ["qwen2-tiny", 128, "max_position_embeddings"],
  ] as const) {
    const decoder = await loadDecoder(gpu, join(DUMPS, name), { weights: "f32" });
    assert.is(decoder.maxPositions, most);
    const texts = [ids(2, 60), ids(most - PREFIX - SUFFIX, 60)];
    await runDecoder(gpu, decoder, texts, [0, 1]);
    const step = gpu.step("too long");
    const batch = promptBatch(step, [ids(most, 60)], { prefix: 1, sharedPrefix: true, suffix: 0 });
    const message = `a sequence of ${most + 1} tokens`;
    const forward = () => decoder.forward(step, batch, step.tensor([1, decoder.hiddenSize]), null, false);
    assert.throws(forward, (error: unknown) => {
      return error instanceof UserError && error.message.startsWith(message) && error.message.includes(field);
    });
    await step.submit();
    decoder.release(gpu);
  }
});

/** A checkpoint's tensors under changed names. */
async function renamed(from: string, to: string, rename: (name: string) => string): Promise<string> {
  await using file = await openSafetensors(join(from, "model.safetensors"));
  const tensors: TensorToWrite[] = [];
  for (const [name, { dtype, shape }] of file.tensors) {
    tensors.push({ name: rename(name), dtype, shape, data: await file.float32(name) });
  }
  await writeSafetensors(join(to, "model.safetensors"), tensors, { format: "pt" });
  return to;
}

t("GPT-2's names with the prefix transformer. load as well", async () => {
  const from = join(DUMPS, "gpt2-tiny");
  const to = join(folder, "prefixed");
  mkdirSync(to);
  copyFileSync(join(from, "config.json"), join(to, "config.json"));
  await renamed(from, to, (name) => `transformer.${name}`);
  const texts = [ids(5, 80)];
  const results: DecoderResult[] = [];
  for (const directory of [from, to]) {
    const decoder = await loadDecoder(gpu, directory, { weights: "f32" });
    results.push(await runDecoder(gpu, decoder, texts, [0]));
    decoder.release(gpu);
  }
  assert.equal(results[1], results[0]);
});

/** Layouts wide enough that a binding limit leaves activations whole and cuts every large weight. */
const WIDE: Record<string, Record<string, unknown>> = {
  "GPT-2": {
    architectures: ["GPT2LMHeadModel"],
    n_embd: 256,
    n_head: 4,
    n_layer: 2,
    n_positions: 64,
    vocab_size: 700,
  },
  Llama: {
    architectures: ["LlamaForCausalLM"],
    hidden_size: 256,
    intermediate_size: 512,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: 700,
  },
};

for (const [name, json] of Object.entries(WIDE)) {
  t(`${name} in windows of weights past the binding limit equals the whole one`, async () => {
    const directory = join(folder, name);
    const files: string[] = [];
    const onFile = (file: string) => void files.push(file);
    await writeRandomCheckpoint(directory, json, { seed: 1, shardBytes: 2 ** 21, onFile });
    assert.ok(files.length > 1, "the checkpoint is sharded");
    const texts = [5, 12].map((length) => ids(length, 700));
    for (const weights of ["f32", "f16"] as const) {
      const whole = await loadDecoder(gpu, directory, { weights });
      const expected = await runDecoder(gpu, whole, texts, [0, 1]);
      whole.release(gpu);
      // The least that the widest weight of GPT-2, [256, 1024], can be cut to: 64 rows.
      const maxBindingBytes = weights === "f32" ? 64 * 1024 * 4 : 64 * 1024 * 2;
      const lowered = await openTestGpu({ maxBindingBytes });
      lowered.subgroupMatrix = null;
      try {
        const cut = await loadDecoder(lowered, directory, { weights });
        const larger = everyWeight(cut.weights).filter(({ bytes }) => bytes > maxBindingBytes);
        assert.ok(larger.length >= 1 + 2 * 3, `only ${larger.length} weights are cut`);
        const found = await runDecoder(lowered, cut, texts, [0, 1]);
        // Windows of [out, in] split rows of the result; those that split a sum add its parts in another order.
        assertClose("hidden", found.hidden, expected.hidden, KERNEL_F32);
        assertClose("gradients", found.gradients, expected.gradients, KERNEL_F32);
      } finally {
        lowered.close();
      }
    }
  });
}

t.run();
