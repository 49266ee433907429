/**
 * Attention on tensor cores: on a GPU with subgroup matrices, or Mesa's lavapipe from 25.2 on (test/newer-lavapipe.sh).
 */
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { kernels } from "../src/gpu/kernels.generated.ts";
import { variantName, variantSource } from "../src/gpu/variant.ts";
import { matrixAttention, VARIANTS } from "../src/gpu/variants.ts";
import {
  type AttentionCase,
  checkAttention,
  describeAttention,
  runAttention,
} from "./attention-matrix-case.ts";
import { BACKBONES, checkDecoderOnMatrices } from "./decoder-matrix-case.ts";
import { openTestGpu } from "./gpu.ts";

const t = suite("attention on tensor cores");
const gpu = await openTestGpu();
t.after(() => gpu.close());

const matrix = gpu.offeredMatrix;
if (!matrix) console.log(`SKIPPED: attention on tensor cores, ${gpu.adapterName} has no subgroup matrices`);
else gpu.subgroupMatrix = matrix;

t("heads and subgroups that have a variant", () => {
  const nvidia = { rows: 16, columns: 16, depth: 16, lanes: 32 };
  assert.is(matrixAttention(nvidia, 128)?.constants?.HEAD_SIZE, 128);
  assert.is(matrixAttention(nvidia, 40), null);
  assert.is(matrixAttention(nvidia, 256), null);
  assert.is(matrixAttention({ ...nvidia, lanes: 8 }, 64), null, "two rows of a matrix for a lane");
  assert.is(matrixAttention({ rows: 8, columns: 8, depth: 8, lanes: 64 }, 64), null, "four keys for a lane");
});

/** WGSL cannot include: a kernel that is valid by itself repeats what it shares, which must not drift apart. */
t("the kernels pack f16, and scale gradients, by the same text", () => {
  const { attention_matrix_forward: forward, attention_matrix_dq: dq, attention_matrix_dkv: dkv } = kernels;
  const bodies = (name: string, sharing: readonly { readonly source: string }[]) =>
    new Set(
      sharing.map(({ source }) => new RegExp(`^fn ${name}\\([\\s\\S]*?^}$`, "m").exec(source)?.[0] ?? source),
    );
  assert.is(bodies("halves", [forward, dq, dkv]).size, 1);
  assert.is(bodies("inverse_of", [dq, dkv]).size, 1);
});

const short = [1, 2, 3, 65, 17, 1, 130];
const cases: AttentionCase[] = [
  { heads: 4, keyValueHeads: 2, headSize: 16, causal: true, lengths: short },
  { heads: 4, keyValueHeads: 1, headSize: 32, causal: true, lengths: [31, 1, 2, 66] },
  { heads: 2, keyValueHeads: 1, headSize: 64, causal: true, lengths: [1, 65, 5, 0, 32, 33] },
  { heads: 2, keyValueHeads: 2, headSize: 80, causal: true, lengths: [18, 1, 37] },
  { heads: 2, keyValueHeads: 2, headSize: 96, causal: false, lengths: [7, 2, 64] },
  { heads: 2, keyValueHeads: 1, headSize: 128, causal: true, lengths: [1, 35] },
  { heads: 4, keyValueHeads: 4, headSize: 16, causal: false, lengths: [101, 2, 65] },
  { heads: 1, keyValueHeads: 1, headSize: 16, causal: true, lengths: [1, 4096, 3] },
  // Scores up to about 50: nearly one key takes all. Gradients that f16 has not.
  { heads: 2, keyValueHeads: 1, headSize: 32, causal: true, lengths: [70, 9], gradient: 1e-12 },
  { heads: 2, keyValueHeads: 2, headSize: 32, causal: true, lengths: [70, 9], gradient: 1e9 },
  { heads: 2, keyValueHeads: 2, headSize: 32, causal: true, lengths: [70, 9], magnitude: 4 },
];

for (const c of matrix ? cases : []) t(describeAttention(c), () => checkAttention(gpu, c));

/** Whether the adapter has matrices of a variant's extents is asked when a pipeline is made; the text is judged before. */
async function assertValid(names: readonly (keyof typeof kernels)[]) {
  let count = 0;
  for (const name of names) {
    for (const variant of VARIANTS[name]) {
      const code = variantSource(kernels[name].source, variant);
      const { messages } = await gpu.device.createShaderModule({ code }).getCompilationInfo();
      const errors = messages.filter(({ type }) => type === "error").map(({ message }) => message);
      assert.equal(errors, [], variantName(name, variant));
      count++;
    }
  }
  return count;
}

if (matrix) {
  t("every variant, for every GPU's matrices, is valid WGSL", async () => {
    const attention = ["attention_matrix_forward", "attention_matrix_dq", "attention_matrix_dkv"] as const;
    const count = await assertValid([...attention, "product_matrix", "limits_matrix"]);
    assert.ok(count > 200, `only ${count}`);
  });

  t("what a sequence gives does not depend on the others, to the bit", async () => {
    const shape = { heads: 2, keyValueHeads: 1, headSize: 32, causal: true };
    const alone = await runAttention(gpu, { ...shape, lengths: [40] });
    const first = await runAttention(gpu, { ...shape, lengths: [40, 77, 3] });
    assert.equal(first.o.slice(0, alone.o.length), alone.o);
  });
}

for (const name of matrix ? Object.keys(BACKBONES) : [])
  t(`a whole ${name} on tensor cores is the one without`, () => checkDecoderOnMatrices(gpu, name));

t.run();
