/**
 * This project, by its public exports (dist/index.js): all repetitions of a round go in one submit.
 *
 * Timed: recording, submit, the GPU's work, the wait for its end. Inputs lie on the GPU, outputs stay there. A training step
 * is recorded anew each time, as in training, and ends with the loss read back.
 */
import { existsSync, readdirSync } from "node:fs";
import * as laser from "../../../dist/index.js";
import { inputsOf, tokensOf } from "../cases.js";
import { serve } from "../serve.js";
import { ADAM, COMPARED, EPSILON, parametersOf, RATE } from "../transformer.js";

let gpu;
/** What is prepared: { record(step) -> tensors by name, release() }, or a training of { step() -> loss, release() }. */
let work = null;

const works = {
  product({ m, k, n }, { x, w }) {
    const tensors = [gpu.parameter([m, k], "f32", x), gpu.parameter([n, k], "f32", w)];
    return { tensors, record: (step) => ({ y: laser.linear(step, ...tensors) }) };
  },
  attention: attentionWork,
  "attention-gradient": attentionWork,
  "cross-attention"({ users, heads, headSize, queries, keys }, inputs) {
    const width = heads * headSize;
    const q = gpu.parameter([users * queries, width], "f32", inputs.q);
    const kv = gpu.parameter([users * keys, 2 * width], "f32", beside([inputs.k, inputs.v], width));
    const columns = {
      q: { tensor: q, offset: 0, stride: width },
      k: { tensor: kv, offset: 0, stride: 2 * width },
      v: { tensor: kv, offset: width, stride: 2 * width },
    };
    const ragged = () => ({ keyLengths: Array(users).fill(keys), owner: [...Array(users).keys()] });
    const shape = { heads, headSize, queryLength: queries };
    return {
      tensors: [q, kv],
      record: (step) => ({ o: laser.crossAttention(step, columns, ragged(), shape).o }),
    };
  },
  /** The cross-entropy's forward pass, which also gives each query's loss: a little more than was asked. */
  "log-sum-exp"({ queries, items: count, width }, inputs) {
    const h = gpu.parameter([queries, width], "f32", inputs.h);
    const items = gpu.parameter([count, width], "f32", inputs.items);
    const target = gpu.parameter([queries], "u32", new Uint32Array(queries));
    return {
      tensors: [h, items, target],
      record: (step) => ({ lse: laser.crossEntropy(step, h, items, target, 1).lse }),
    };
  },
  "top-items"({ queries, items: count, width, k }, inputs) {
    const h = gpu.parameter([queries, width], "f32", inputs.h);
    const items = gpu.parameter([count, width], "f32", inputs.items);
    return {
      tensors: [h, items],
      record: (step) => {
        const { ids, scores } = laser.topItems(step, h, items, k);
        return { ids, scores };
      },
    };
  },
};

/** Host matrices of `width` columns side by side: the layout that one product of stacked weights leaves. */
function beside(matrices, width) {
  const rows = matrices[0].length / width;
  const all = new Float32Array(matrices.length * matrices[0].length);
  matrices.forEach((matrix, part) => {
    for (let r = 0; r < rows; r++)
      all.set(matrix.subarray(r * width, (r + 1) * width), (r * matrices.length + part) * width);
  });
  return all;
}

function attentionWork({ length, heads, headSize }, { q, k, v, dO }) {
  const width = heads * headSize;
  const qkv = gpu.parameter([length, 3 * width], "f32", beside([q, k, v], width));
  const gradient = dO && gpu.parameter([length, width], "f32", dO);
  const columns = (tensor) => ({
    q: { tensor, offset: 0, stride: 3 * width },
    k: { tensor, offset: width, stride: 3 * width },
    v: { tensor, offset: 2 * width, stride: 3 * width },
  });
  const shape = { heads, keyValueHeads: heads, headSize, causal: true };
  const record = (step) => {
    const sequences = laser.packed(step, [length]);
    const { o, lse } = laser.selfAttention(step, columns(qkv), sequences, shape);
    if (!gradient) return { o };
    const dqkv = step.tensor([length, 3 * width]);
    const { q: dq, k: dk, v: dv } = columns(dqkv);
    laser.selfAttentionGradient(step, gradient, o, lse, columns(qkv), sequences, shape, { dq, dk, dv });
    return { o, dqkv };
  };
  const split = ({ o, dqkv }) => {
    if (!dqkv) return { o };
    const part = (n) =>
      Float32Array.from(o, (_, i) => dqkv[Math.floor(i / width) * 3 * width + n * width + (i % width)]);
    return { o, dq: part(0), dk: part(1), dv: part(2) };
  };
  return { tensors: gradient ? [qkv, gradient] : [qkv], record, split };
}

/** transformer.js on the project's tape: the same functions that its recommenders and its tiny backbone train with. */
function training(shape) {
  const { layers, width, heads, batch, length } = shape;
  const { shapes, values } = parametersOf(shape);
  const parameters = new laser.Parameters();
  const p = {};
  for (const name in shapes) p[name] = parameters.declare(name, shapes[name], { constant: 0 });
  parameters.allocate(gpu);
  gpu.write(
    parameters.values,
    parameters.join((name) => ({ shape: shapes[name], data: values[name] }), "transformer.js"),
  );
  const adam = new laser.Adam(gpu, parameters, { ...ADAM, weightDecay: 0, clip: null });
  const { ids, next } = tokensOf(shape);
  const places = Uint32Array.from(ids, (_, i) => i % length);
  const attention = { heads, keyValueHeads: heads, headSize: width / heads, causal: true };
  const { add, embedding, gelu, layerNorm, linear, selfAttention } = laser.differentiable;

  const update = async () => {
    const step = gpu.step("training");
    const tape = new laser.Tape(step, { gradients: true, dropout: null });
    const sequences = laser.packed(step, Array(batch).fill(length));
    const norm = (x, name) => layerNorm(tape, x, p[`${name}.weight`], p[`${name}.bias`], EPSILON);
    const dense = (x, name) => linear(tape, x, p[`${name}.weight`], p[`${name}.bias`]);
    const tokens = embedding(tape, p.tokens, ids, step.upload(ids));
    let x = add(tape, tokens, embedding(tape, p.positions, places, step.upload(places)));
    for (let n = 0; n < layers; n++) {
      const qkv = dense(norm(x, `${n}.norm1`), `${n}.qkv`);
      x = add(tape, x, dense(selfAttention(tape, qkv, sequences, attention), `${n}.out`));
      const hidden = gelu(tape, dense(norm(x, `${n}.norm2`), `${n}.up`), "tanh");
      x = add(tape, x, dense(hidden, `${n}.down`));
    }
    const side = { items: p.tokens.value, bias: null, trained: { table: p.tokens, bias: null } };
    const sum = laser.itemCrossEntropy(tape, norm(x, "norm"), side, step.upload(next), 1);
    const loss = step.readFloats(sum);
    tape.backward();
    adam.update(step, RATE);
    await step.submit();
    return (await loss)[0] / ids.length;
  };
  const release = () => {
    adam.release();
    parameters.release(gpu);
  };
  return { update, release };
}

/** Milliseconds of one of `repetitions` recordings sent in one submit; what each made is freed before the next. */
async function timed(record, repetitions) {
  const step = gpu.step("round");
  const made = [];
  for (const method of ["tensor", "upload"]) {
    const make = step[method].bind(step);
    step[method] = (...args) => {
      made.push(make(...args));
      return made.at(-1);
    };
  }
  const start = performance.now();
  for (let i = 0; i < repetitions; i++) {
    record(step);
    for (const tensor of made.splice(0)) step.free(tensor);
  }
  await step.submit();
  return (performance.now() - start) / repetitions;
}

/** Where Linux distributions keep the manifests of Vulkan drivers. */
const MANIFESTS = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/**
 * What the peers' processes must find in their environment to compute on the same adapter in the same way: what drivers
 * read (Mesa's vector width), and a software adapter's driver as the only one, since onnxruntime picks its adapter itself.
 */
function environmentOf(adapterName) {
  const environment = {};
  for (const name of ["LP_NATIVE_VECTOR_WIDTH", "XDG_RUNTIME_DIR"])
    if (process.env[name]) environment[name] = process.env[name];
  let manifest = null;
  if (/llvmpipe/i.test(adapterName))
    manifest = MANIFESTS.filter(existsSync)
      .flatMap((folder) => readdirSync(folder).map((file) => `${folder}/${file}`))
      .find((file) => /\/lvp_icd[^/]*\.json$/.test(file));
  if (/swiftshader/i.test(adapterName) && !laser.swiftShaderObstacle()) {
    const folder = laser.unpackSwiftShader();
    manifest = `${folder}/vk_swiftshader_icd.json`;
    if (!laser.hasVulkanLoader())
      environment.LD_LIBRARY_PATH = [folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(":");
  }
  if (manifest) Object.assign(environment, { VK_ICD_FILENAMES: manifest, VK_DRIVER_FILES: manifest });
  return environment;
}

serve({
  async open({ adapter }) {
    gpu = await laser.Gpu.open({ adapter });
    const fast = process.env.LASER_FAST === "1";
    const environment = environmentOf(gpu.adapterName);
    return {
      engine: "laser",
      adapter: gpu.adapterName,
      version: "this checkout",
      settings: fast
        ? "LASER_FAST=1: skip_validation, disable_robustness, disable_workgroup_init"
        : "Dawn's default toggles (validation and robustness on)",
      software: gpu.software,
      environment,
    };
  },
  forms: () => ["one submit"],
  async prepare(each) {
    const { kind, shape } = each;
    if (kind === "training") {
      work = training(shape);
      const losses = [];
      for (let i = 0; i < COMPARED; i++) losses.push(await work.update());
      return { outputs: { losses } };
    }
    const { record, tensors, split = (outputs) => outputs } = works[kind](shape, inputsOf(each));
    const release = () => {
      for (const tensor of tensors) gpu.release(tensor);
    };
    work = { record, release };
    const step = gpu.step("check");
    const reads = Object.entries(record(step)).map(([name, tensor]) => [name, step.read(tensor)]);
    await step.submit();
    const outputs = {};
    for (const [name, read] of reads) outputs[name] = await read;
    return { outputs: split(outputs) };
  },
  async round(repetitions) {
    if (work.record) return timed(work.record, repetitions);
    const start = performance.now();
    for (let i = 0; i < repetitions; i++) await work.update();
    return (performance.now() - start) / repetitions;
  },
  async release() {
    work?.release();
    work = null;
  },
  async close() {
    gpu?.close();
  },
});
