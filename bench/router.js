// Times of the router and the aggregation: node bench/router.js [--json] [--quick]
//
// The paper's sizes (d_c 64, K 8, k 3, L 32, d_m 768). Every case is compiled and warmed up, then timed from submit to the
// end of the GPU's work; the median counts. All of them are small: what counts is the number of dispatches.
import {
  aggregate,
  aggregateGradient,
  Gpu,
  gates,
  loadBalancing,
  packed,
  router,
  routerGradient,
} from "../dist/index.js";

const json = process.argv.includes("--json");
const rounds = process.argv.includes("--quick") ? 3 : 21;

/** Deterministic values in [-1, 1). */
function noise(n, seed) {
  const values = new Float32Array(n);
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let i = 0; i < n; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2 ** 31 - 1;
  }
  return values;
}

/** Milliseconds from submit to completion (the median of the rounds), and dispatches. */
async function time(gpu, record) {
  const times = [];
  let dispatches = 0;
  for (let round = -2; round < rounds; round++) {
    const step = gpu.step("bench");
    record(step);
    dispatches = step.dispatches;
    const start = performance.now();
    await step.submit();
    if (round >= 0) times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  return { milliseconds: times[times.length >> 1], dispatches };
}

const [width, experts, active, queryTokens, inner] = [64, 8, 3, 32, 768];

/** Throws unless the weights of every user sum to one and the best expert leads: a wrong router must not be timed. */
async function check(gpu, { c, weight, lengths }) {
  const step = gpu.step("check");
  const routing = router(step, c, packed(step, lengths), weight, active);
  const reads = [step.read(routing.w), step.read(routing.top)];
  await step.submit();
  const [w, top] = await Promise.all(reads);
  lengths.forEach((_, b) => {
    const own = [...w.subarray(b * experts, (b + 1) * experts)];
    const sum = own.reduce((a, x) => a + x, 0);
    if (!(Math.abs(sum - 1) < 1e-5)) throw new Error(`the weights of user ${b} sum to ${sum}`);
    const best = own.indexOf(Math.max(...own));
    if (top[b * active] !== best) throw new Error(`user ${b}: expert ${top[b * active]} leads, not ${best}`);
  });
}

async function batchCases(gpu, users, length) {
  const lengths = Array(users).fill(length);
  const c = gpu.parameter([users * length, width], "f32", noise(users * length * width, 1));
  const weight = gpu.parameter([experts, width], "f32", noise(experts * width, 2));
  const dWeight = gpu.parameter([experts, width]);
  const dGates = gpu.parameter([users, active], "f32", noise(users * active, 3));
  const q = gpu.parameter(
    [users * active * queryTokens, inner],
    "f32",
    noise(users * active * queryTokens * inner, 4),
  );
  const dOut = gpu.parameter([users * queryTokens, inner], "f32", noise(users * queryTokens * inner, 5));
  await check(gpu, { c, weight, lengths });
  const balance = { scope: "sequence", coefficient: 0.1 };
  const shape = { batch: users, active, rows: queryTokens, width: inner };
  const forward = (step) => {
    const sequences = packed(step, lengths);
    const routing = router(step, c, sequences, weight, active);
    gates(step, routing, "weights");
    loadBalancing(step, routing, sequences, "sequence");
    return { sequences, routing };
  };
  const both = (step) => {
    const { sequences, routing } = forward(step);
    const into = { dWeight, accumulate: false };
    routerGradient(step, c, sequences, routing, dGates, "weights", balance, into);
  };
  const mix = (step) => {
    aggregate(step, q, dGates, shape);
    aggregateGradient(step, dOut, q, dGates, shape);
  };
  const name = `${users} users x ${length} items`;
  return [
    [`router, gates, balance, ${name}`, forward],
    [`the same and the gradient, ${name}`, both],
    [`aggregate and its gradient, ${users} users`, mix],
  ];
}

const gpu = await Gpu.open();
try {
  const cases = [
    ...(await batchCases(gpu, 4, 10)),
    ...(await batchCases(gpu, 64, 10)),
    ...(await batchCases(gpu, 64, 50)),
  ];
  const results = [];
  for (const [name, record] of cases) results.push({ name, ...(await time(gpu, record)) });
  if (json) {
    console.log(JSON.stringify({ adapter: gpu.adapterName, rounds, results }, null, 2));
  } else {
    console.log(
      `${gpu.adapterName}\nd_c ${width}, K ${experts}, k ${active}, L ${queryTokens}, d_m ${inner}\n`,
    );
    for (const { name, milliseconds, dispatches } of results)
      console.log(`${name.padEnd(52)} ${milliseconds.toFixed(2).padStart(8)} ms, ${dispatches} dispatches`);
  }
} finally {
  gpu.close();
}
