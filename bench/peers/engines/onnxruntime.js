/**
 * onnxruntime-node's WebGPU execution provider. Its own Dawn picks the adapter, and cannot be told which.
 *
 * Sessions are made with CPU fallback disabled: a graph of which a single node would run on the CPU is refused, so what is
 * timed ran on WebGPU. Inputs lie on the GPU and outputs stay there (preferredOutputLocation "gpu-buffer"), except the few
 * values of a top-k. Timed: `repetitions` runs, then one more of a graph that reads one value of the last output back to
 * the host, which ends when the queue has. onnxruntime disables Dawn's robustness by itself.
 */
import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import { inputsOf } from "../cases.js";
import { graphs } from "../onnx-graphs.js";
import { int64s, modelOf, node } from "../onnx-model.js";
import { serve } from "../serve.js";

let work = null;

/** A session whose outputs go to the GPU, to the host, or each where `location` says. */
function session(graph, location) {
  const dims = Object.fromEntries(Object.entries(graph.inputs).map(([name, input]) => [name, input.dims]));
  return ort.InferenceSession.create(modelOf({ ...graph, inputs: dims }), {
    executionProviders: ["webgpu"],
    preferredOutputLocation: location,
    extra: { session: { disable_cpu_ep_fallback: "1" } },
    logSeverityLevel: 4,
  });
}

/** Runs `graph` of one input once. */
async function through(graph, location, input) {
  const made = await session(graph, location);
  const { y } = await made.run({ x: input });
  return { y, end: () => made.release() };
}

const identity = (dims) => ({
  nodes: [node("Identity", ["x"], ["y"])],
  inputs: { x: { dims } },
  outputs: { y: dims },
});

/** The first element, on the host. */
const first = (dims) => ({
  nodes: [node("Slice", ["x", "from", "to"], ["y"])],
  inputs: { x: { dims } },
  outputs: { y: dims.map(() => 1) },
  initializers: [
    int64s(
      "from",
      dims.map(() => 0),
    ),
    int64s(
      "to",
      dims.map(() => 1),
    ),
  ],
});

/** The Vulkan drivers mapped into this process: which adapter onnxruntime can have used. */
function drivers() {
  try {
    const maps = readFileSync("/proc/self/maps", "utf8");
    const names = [...maps.matchAll(/\/(libvulkan_\w+|libvk_\w+|libGLX_nvidia)\.so/g)].map(
      ([, name]) => name,
    );
    return [...new Set(names)].join(", ") || "not known";
  } catch {
    return "not known";
  }
}

serve({
  async open() {
    // Its session is kept: when the last one ends, so does onnxruntime's device, and the next session makes another.
    const { y } = await through(identity([1]), "cpu", new ort.Tensor("float32", new Float32Array([1]), [1]));
    if (y.data[0] !== 1) throw new Error("the WebGPU execution provider computes nothing");
    return {
      engine: "onnxruntime-node",
      adapter: `its own choice; Vulkan drivers loaded: ${drivers()}`,
      version: ort.env.versions.node ?? "?",
      settings: "WebGPU execution provider, no CPU fallback, its default options (robustness off)",
      environment: {},
    };
  },
  forms: ({ kind }) => Object.keys(graphs[kind] ?? {}),
  async prepare(each, form) {
    const graph = graphs[each.kind][form](each.shape, inputsOf(each));
    const { small = [], results = (found) => found } = graph;
    const location = Object.fromEntries(
      Object.keys(graph.outputs).map((name) => [name, small.includes(name) ? "cpu" : "gpu-buffer"]),
    );
    const feeds = {};
    const ends = [];
    for (const [name, { dims, data }] of Object.entries(graph.inputs)) {
      const { y, end } = await through(identity(dims), "gpu-buffer", new ort.Tensor("float32", data, dims));
      feeds[name] = y;
      ends.push(() => y.dispose(), end);
    }
    const main = await session(graph, location);
    ends.push(() => main.release());
    const found = await main.run(feeds);
    const outputs = {};
    for (const [name, tensor] of Object.entries(found)) {
      if (tensor.location === "cpu") outputs[name] = tensor.data;
      else {
        const { y, end } = await through(identity(graph.outputs[name]), "cpu", tensor);
        outputs[name] = y.data.slice();
        await end();
      }
      tensor.dispose();
    }
    const [waited] = Object.keys(graph.outputs);
    const wait = small.includes(waited) ? null : await session(first(graph.outputs[waited]), "cpu");
    if (wait) ends.push(() => wait.release());
    work = { main, feeds, wait, waited, ends };
    return { outputs: results(outputs) };
  },
  async round(repetitions) {
    const { main, feeds, wait, waited } = work;
    const start = performance.now();
    for (let i = 0; i < repetitions; i++) {
      const found = await main.run(feeds);
      if (wait && i === repetitions - 1) await wait.run({ x: found[waited] });
      for (const tensor of Object.values(found)) tensor.dispose();
    }
    return (performance.now() - start) / repetitions;
  },
  async release() {
    const { ends } = work ?? { ends: [] };
    work = null;
    for (const end of ends) await end();
  },
  async close() {},
});
