/**
 * Variants of a kernel's text: what the text becomes, and that the build reads each with wgsl_reflect and fails when one
 * has another interface than the descriptor that its calls are checked against.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { kernels } from "../src/gpu/kernels.generated.ts";
import { variantOf, variantSource, withWeights } from "../src/gpu/variant.ts";
import { FILES, GROUPS, weightGroups } from "../src/gpu/variants.ts";
import { repositoryPath } from "./shared.ts";
import { temporaryFolder } from "./temporary.ts";

const t = suite("variants");

t("constants, repeated lines and the reading of weights are replaced in the text", () => {
  const source = [
    "const KEYS = 1u;",
    "  s[0] = f(a, 0u); // each lane",
    "// begin weights",
    "fn weight() {}",
    "// end weights",
    "end",
  ].join("\n");
  assert.is(variantSource(source, {}), source);
  const lanes = variantSource(source, { constants: { KEYS: 2 }, lanes: 2 }).split("\n");
  assert.equal(lanes.slice(0, 3), [
    "const KEYS = 2u;",
    "  s[0] = f(a, 0u); // each lane",
    "  s[1] = f(a, 1u); // each lane",
  ]);
  const int4 = variantSource(source, { weights: "quantized", constants: { BITS: 4 } });
  assert.match(int4, /^const BITS = 4u;$/m);
  assert.match(int4, /^end$/m);
  assert.not.match(int4, "fn weight() {}");
  assert.throws(() => variantSource(source, { constants: { TILE: 3 } }), /no constant TILE/);
  assert.throws(() => variantSource("fn main() {}", { weights: "f16" }), /no lines between/);
});

t("a variant is made once, keeps its kernel's descriptor, and must be one that the build has read", () => {
  const { product, product_columns: columns } = kernels;
  assert.is(withWeights(product, "f32"), product);
  const int8 = withWeights(product, "int8");
  assert.is(int8.name, "product,weights=quantized,BITS=8");
  assert.is(int8, withWeights(product, "int8"));
  assert.is(int8.bindings, product.bindings);
  assert.throws(() => withWeights(product, "u32"), /u32 is no storage of weights/);
  assert.throws(() => withWeights(columns, "f16"), /product_columns,weights=f16 is not among the variants/);
  const shared = kernels.attention_shared_forward;
  assert.throws(() => variantOf(shared, { constants: { KEYS: 3 }, lanes: 3 }), /KEYS=3,lanes=3 is not among/);
});

/** WGSL cannot include: a kernel that is valid by itself repeats these lines, which must not drift apart. */
t(
  "kernels take elements one at a time, and read files of F32, by the same text, and have variants for the rest",
  () => {
    const partsOf = (name: string) => {
      const ends = new RegExp(`^// begin ${name}\\n([\\s\\S]*?)^// end ${name}$`, "m");
      return Object.values(kernels).flatMap((kernel) => {
        const part = ends.exec(kernel.source)?.[1];
        return part === undefined ? [] : [{ kernel, part }];
      });
    };
    const files = partsOf("file");
    assert.ok(files.length > 1);
    assert.is(new Set(files.map(({ part }) => part)).size, 1);
    for (const { kernel } of files)
      for (const file of Object.values(FILES))
        assert.match(variantOf(kernel, file).source, /^\/\/ b?f16: eight/m);
    // `embed` reads weights, four at a time in every storage.
    const { embed } = kernels;
    assert.match(variantOf(embed, weightGroups("int4")).source, /^alias Group = vec4f;$/m);
    const sharing = partsOf("elements").filter(({ kernel }) => kernel !== embed);
    assert.ok(sharing.length > 1);
    assert.is(new Set(sharing.map(({ part }) => part)).size, 1);
    for (const { kernel } of sharing) {
      const { name, source } = variantOf(kernel, GROUPS);
      assert.is(name, `${kernel.name},groups`);
      assert.match(source, /^alias Group = vec4f;$/m);
      assert.not.match(source, /alias Group = f32;/);
    }
  },
);

/** Builds a copy of the kernels, after a change to one of its files where one is given. */
function buildCopy(change?: readonly [file: string, before: string, after: string]) {
  const copy = temporaryFolder();
  for (const part of ["build.mjs", "kernels", "src/gpu"])
    cpSync(repositoryPath(part), join(copy, part), { recursive: true });
  symlinkSync(repositoryPath("node_modules"), join(copy, "node_modules"));
  mkdirSync(join(copy, "test"));
  writeFileSync(join(copy, "test/empty.test.ts"), "");
  if (change) {
    const [file, before, after] = change;
    const path = join(copy, file);
    const text = readFileSync(path, "utf8");
    assert.ok(text.includes(before), `${file} holds no ${before}`);
    writeFileSync(path, text.replace(before, after));
  }
  const built = spawnSync(process.execPath, ["build.mjs", "--only=empty"], { cwd: copy, encoding: "utf8" });
  return { code: built.status, output: built.stdout + built.stderr };
}

t("the build reads every variant", () => {
  const { code, output } = buildCopy();
  assert.is(code, 0, output);
  assert.match(output, /built dist \(\d+ kernels, \d+ variants\)/);
});

t("the build fails when a variant has another interface than its kernel", () => {
  for (const [file, before, after, message] of [
    // Another name, another access, a binding more.
    [
      "kernels/weights/quantized.wgsl",
      "read> weights: array",
      "read> codes: array",
      /kernels\/embed\.wgsl, variant embed,weights=quantized,BITS=8: bindings .*"codes".* differ from the descriptor/,
    ],
    [
      "kernels/weights/f16.wgsl",
      "var<storage, read> weights",
      "var<storage, read_write> weights",
      /kernels\/embed\.wgsl, variant embed,weights=f16: bindings .*read_write.* differ/,
    ],
    [
      "kernels/attention_shared_forward.wgsl",
      "@group(0) @binding(5) var<storage, read_write> lse: array<f32>;",
      "@group(0) @binding(5) var<storage, read_write> lse: array<f32>; // each lane",
      /attention_shared_forward\.wgsl, variant attention_shared_forward,KEYS=4,LANES=4,lanes=4: bindings must be/,
    ],
    // An override constant and a scalar of a variant alone.
    [
      "kernels/weights/f16.wgsl",
      "fn weight(",
      "override F16: u32 = 1u;\nfn weight(",
      /weights=f16: overrides .*differ/,
    ],
    [
      "kernels/product_rows.wgsl",
      "// end weights\n",
      "// end weights of B\n",
      /product_rows\.wgsl, variant product_rows,weights=f16,LANES=4,ROWS=32,lanes=4: it has no lines between/,
    ],
    [
      "src/gpu/variants.ts",
      "{ BITS: 4 }",
      "{ BITS: 4, WIDTH: 3 }",
      /embed,.*WIDTH=3: it has no constant WIDTH/,
    ],
    [
      "src/gpu/variants.ts",
      "  embed: [...stored",
      "  embeds: [...stored",
      /variants\.ts: there is no kernels\/embeds\.wgsl/,
    ],
  ] as const) {
    const { code, output } = buildCopy([file, before, after]);
    assert.is(code, 1, output);
    assert.match(output, /^build failed: /);
    assert.match(output, message);
  }
});

t.run();
