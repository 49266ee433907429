// Builds the project: node build.mjs [--tests | --only=TOPIC] [--quiet] [--typecheck]
//
//   1. reads every kernels/*.wgsl with wgsl_reflect and writes src/gpu/kernels.generated.ts: one typed descriptor a
//      kernel (bindings, scalars, override constants). Every call of a kernel is typed against its descriptor, so a
//      call and its kernel cannot disagree: with --typecheck (and in `npm test`) tsc fails on a mismatch, and at run
//      time Step.run refuses missing names. Every variant of a kernel's text (src/gpu/variants.ts) is read too, and must
//      have the interface of its kernel, whose descriptor it shares.
//   2. bundles dist/index.js (the library, WGSL embedded), dist/cli.js (the `laser` command) and, with --tests,
//      dist/test/*.test.js
//      (--only=TOPIC: just dist/test/TOPIC.test.js, a quick build while working on one test).
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";
import { WgslReflect } from "wgsl_reflect/wgsl_reflect.module.js";

const flags = new Set(process.argv.slice(2));
const only = process.argv.find((flag) => flag.startsWith("--only="))?.slice("--only=".length);
const root = new URL("./", import.meta.url);
process.chdir(root.pathname);

/** WebGPU's default limits: what a kernel may use so that it runs on every adapter. */
const MOST_STORAGE_BINDINGS = 8;
const MOST_PARAM_BYTES = 64;

/**
 * The text without the bodies of its functions, for kernels with subgroup matrices, which wgsl_reflect cannot read. What
 * is checked, bindings, scalars and constants, stands outside of them.
 */
function withoutBodies(source) {
  if (!source.includes("enable chromium_experimental_subgroup_matrix;")) return source;
  let text = source.replace("enable chromium_experimental_subgroup_matrix;", "");
  for (let from = text.search(/^fn /m); from >= 0; ) {
    const open = text.indexOf("{", from);
    let close = open;
    for (let depth = 1; depth > 0 && close < text.length; ) {
      close++;
      depth += { "{": 1, "}": -1 }[text[close]] ?? 0;
    }
    text = `${text.slice(0, open)}{}${text.slice(close + 1)}`;
    const next = text.slice(open).search(/^fn /m);
    from = next < 0 ? next : open + next;
  }
  return text;
}

/** Reads a kernel's interface from its text. Throws an Error that names `what` when it breaks a convention. */
function describe(what, source) {
  const fail = (message) => {
    throw new Error(`${what}: ${message}`);
  };
  let reflection;
  try {
    reflection = new WgslReflect(withoutBodies(source));
  } catch (error) {
    fail(`wgsl_reflect cannot read it: ${error.message ?? error}`);
  }
  if (!source.startsWith("//"))
    fail("the file must start with its header comment (formula, shapes, callers, tiling)");
  const entries = reflection.entry.compute;
  if (entries.length !== 1 || entries[0].name !== "main")
    fail("expected exactly one compute entry point, `main`");
  const bindings = reflection.storage
    .map((variable) => {
      if (variable.group !== 0)
        fail(`binding ${variable.name} is in group ${variable.group}, expected group 0`);
      return { name: variable.name, binding: variable.binding, access: variable.access };
    })
    .sort((a, b) => a.binding - b.binding);
  if (bindings.some((b, i) => b.binding !== i)) fail("bindings must be numbered 0, 1, 2, ... without gaps");
  if (bindings.length > MOST_STORAGE_BINDINGS) {
    fail(`${bindings.length} storage bindings; WebGPU guarantees ${MOST_STORAGE_BINDINGS}`);
  }
  if (reflection.uniforms.length)
    fail("scalars belong in `var<immediate> params: Params`, not in a uniform buffer");
  const params = [];
  let paramBytes = 0;
  const immediate = reflection.immediates[0];
  if (immediate) {
    for (const member of immediate.type.members) {
      if (!["u32", "f32", "i32"].includes(member.type.name))
        fail(`param ${member.name} is ${member.type.name}`);
      params.push({ name: member.name, type: member.type.name, offset: member.offset });
    }
    paramBytes = immediate.type.size;
    if (paramBytes > MOST_PARAM_BYTES)
      fail(`Params has ${paramBytes} bytes, at most ${MOST_PARAM_BYTES} fit`);
  }
  const overrides = reflection.overrides.map((o) => ({ name: o.name, type: o.type?.name ?? "u32" }));
  return { bindings, params, paramBytes, overrides };
}

/**
 * Reads every variant of a kernel's text. Throws an Error that names the first that has other bindings, scalars or
 * override constants than the kernel: calls of a variant use the kernel's descriptor.
 */
function checkVariants(name, source, descriptor, { VARIANTS, variantSource, variantName }) {
  for (const variant of VARIANTS[name] ?? []) {
    const what = `kernels/${name}.wgsl, variant ${variantName(name, variant)}`;
    let text;
    try {
      text = variantSource(source, variant);
    } catch (error) {
      throw new Error(`${what}: ${error.message}`);
    }
    const found = describe(what, text);
    for (const part in descriptor) {
      const [expected, actual] = [descriptor[part], found[part]].map((value) => JSON.stringify(value));
      if (expected !== actual)
        throw new Error(`${what}: ${part} ${actual} differ from the descriptor of its kernel, ${expected}`);
    }
  }
  return VARIANTS[name]?.length ?? 0;
}

/** The sources that make variants, as the program will run them. */
async function loadVariants() {
  const contents = 'export * from "./src/gpu/variant.ts"; export * from "./src/gpu/variants.ts";';
  const stdin = { contents, resolveDir: root.pathname };
  const { outputFiles } = await build({ ...common, stdin, splitting: false, sourcemap: false, write: false });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
}

async function generate() {
  const sources = await loadVariants();
  let variants = 0;
  const kernels = readdirSync("kernels")
    .filter((file) => file.endsWith(".wgsl"))
    .sort()
    .map((file) => {
      const name = file.replace(/\.wgsl$/, "");
      const source = readFileSync(`kernels/${file}`, "utf8");
      const descriptor = describe(`kernels/${file}`, source);
      variants += checkVariants(name, source, descriptor, sources);
      return { name, ...descriptor };
    });
  for (const name in sources.VARIANTS) {
    if (!kernels.some((kernel) => kernel.name === name))
      throw new Error(`src/gpu/variants.ts: there is no kernels/${name}.wgsl`);
  }
  const union = (list) => list.map((x) => JSON.stringify(x.name)).join(" | ") || "never";
  const lines = [
    "// Generated by build.mjs from kernels/*.wgsl with wgsl_reflect. Do not edit.",
    'import type { Kernel } from "./kernel.ts";',
    ...kernels.map((k) => `import ${k.name} from "../../kernels/${k.name}.wgsl";`),
    "",
    "export const kernels = {",
  ];
  for (const k of kernels) {
    const { name, ...rest } = k;
    lines.push(
      `  ${name}: { name: "${name}", source: ${name}, ${JSON.stringify(rest).slice(1, -1)} } as Kernel<${union(k.bindings)}, ${union(k.params)}, ${union(k.overrides)}>,`,
    );
  }
  lines.push("};", "");
  const text = lines.join("\n");
  const path = "src/gpu/kernels.generated.ts";
  if (!existsSync(path) || readFileSync(path, "utf8") !== text) writeFileSync(path, text);
  return `${kernels.length} kernels, ${variants} variants`;
}

const common = {
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  packages: "external",
  splitting: true,
  sourcemap: "linked",
  loader: { ".wgsl": "text" },
  logLevel: "warning",
};

try {
  const count = await generate();
  const entries = { index: "src/index.ts", cli: "src/cli/main.ts" };
  const present = Object.fromEntries(Object.entries(entries).filter(([, path]) => existsSync(path)));
  if (!only)
    await build({ ...common, entryPoints: present, outdir: "dist", chunkNames: "chunks/[name]-[hash]" });
  if (flags.has("--tests") || only) {
    const tests = only
      ? [`${only}.test.ts`]
      : readdirSync("test").filter((file) => file.endsWith(".test.ts"));
    await build({
      ...common,
      entryPoints: Object.fromEntries(tests.map((file) => [file.replace(/\.ts$/, ""), `test/${file}`])),
      outdir: "dist/test",
      chunkNames: "chunks/[name]-[hash]",
    });
  }
  if (flags.has("--typecheck")) execFileSync("npx", ["tsc", "--noEmit"], { stdio: "inherit" });
  if (!flags.has("--quiet")) console.log(`built dist (${count})`);
} catch (error) {
  console.error(`build failed: ${error.message ?? error}`);
  process.exit(1);
}
