/**
 * @jax-js/jax on the project's own Dawn: the same adapter, with the same toggles. Its README says that Node has no WebGPU;
 * it asks navigator.gpu for it, which is given to it here.
 *
 * Every work is one jit-compiled function, gradients by its own vjp and valueAndGrad. Timed: the calls, then
 * blockUntilReady on all that they returned (arrays are lazy: what nobody waits for may never run). Inputs lie on the GPU,
 * outputs stay there. A training step ends with its loss read back.
 */
import { readFileSync } from "node:fs";
import { requestAdapter } from "../../../dist/index.js";
import { inputsOf } from "../cases.js";
import { serve } from "../serve.js";

let jax;
let works;
let work = null;
/** Keeps Dawn's instance alive. */
let opened;

/** Its einsum maps over iterators, which Node has from 22 on: without this, attention fails on Node 20. */
const iterators = Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]()));
if (!iterators.map) {
  const lazy = {
    *map(change) {
      let i = 0;
      for (const each of this) yield change(each, i++);
    },
    *filter(keeps) {
      let i = 0;
      for (const each of this) if (keeps(each, i++)) yield each;
    },
  };
  for (const [name, value] of Object.entries(lazy))
    Object.defineProperty(iterators, name, { value, configurable: true, writable: true });
}

/** Arrays of host values on the GPU. */
async function toDevice(inputs) {
  const { array } = jax.numpy;
  const arrays = inputs.map(({ data, dims }) => array(data).reshape(dims));
  await jax.blockUntilReady(arrays);
  return arrays;
}

serve({
  async open({ adapter }) {
    opened = await requestAdapter({ adapter });
    const gpu = { requestAdapter: async () => opened.adapter };
    // Node 20 has no navigator; later ones have one without gpu.
    if (!globalThis.navigator)
      Object.defineProperty(globalThis, "navigator", {
        value: { userAgent: `Node.js/${process.versions.node}` },
      });
    Object.defineProperty(globalThis.navigator, "gpu", { value: gpu });
    jax = await import("@jax-js/jax");
    const devices = await jax.init("webgpu");
    if (!devices.includes("webgpu")) throw new Error("@jax-js/jax found no WebGPU");
    jax.defaultDevice("webgpu");
    works = (await import("../jax-works.js")).worksOf(jax);
    const package_ = new URL("../node_modules/@jax-js/jax/package.json", import.meta.url);
    return {
      engine: "@jax-js/jax",
      adapter: opened.name,
      version: JSON.parse(readFileSync(package_, "utf8")).version,
      settings: "WebGPU, jit",
      environment: {},
    };
  },
  forms: ({ kind }) => Object.keys(works[kind] ?? {}),
  async prepare(each, form) {
    const made = works[each.kind][form](each.shape, inputsOf(each));
    if (made.start) {
      // A computation with state: `start` makes it, `update` replaces it and gives a number.
      work = await made.start(toDevice);
      return { outputs: await work.check() };
    }
    const inputs = await toDevice(made.inputs);
    const compiled = jax.jit(made.run);
    const run = () => compiled(...inputs.map((input) => input.ref));
    const outputs = {};
    for (const [name, output] of Object.entries(run())) outputs[name] = await output.data();
    work = {
      async round(repetitions) {
        const results = [];
        for (let i = 0; i < repetitions; i++) results.push(run());
        await jax.blockUntilReady(results);
        for (const result of results) jax.tree.dispose(result);
      },
      release() {
        for (const input of inputs) input.dispose();
        compiled.dispose?.();
      },
    };
    return { outputs: made.results?.(outputs) ?? outputs };
  },
  async round(repetitions) {
    const start = performance.now();
    await work.round(repetitions);
    return (performance.now() - start) / repetitions;
  },
  async release() {
    work?.release();
    work = null;
  },
  async close() {
    if (jax) jax.getWebGPUDevice().destroy();
  },
});
