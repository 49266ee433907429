// The router and the aggregation: node bench/router.js [--json] [--quick] [--adapter=NAME]
//
// The paper's sizes (d_c 64, K 8, k 3, L 32, d_m 768). Rates count the operations and bytes of the kernels, as the ops
// state them. All of them are small: what counts is the number of dispatches.
import { accountOf } from "./account.js";
import { json, laser, noise, open, quick } from "./harness.js";

const { aggregate, aggregateGradient, gates, loadBalancing, packed, router, routerGradient } = laser;
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

const bench = await open(
  `The router and the aggregation, d_c ${width}, K ${experts}, k ${active}, L ${queryTokens}, d_m ${inner}`,
);
const { gpu } = bench;
try {
  const sizes = quick
    ? [[4, 10]]
    : [
        [4, 10],
        [64, 10],
        [64, 50],
      ];
  for (const [users, length] of sizes) {
    for (const [name, record] of await batchCases(gpu, users, length)) {
      const { dispatches } = await bench.run(name, await accountOf(gpu, record), record);
      if (!json) console.log(`  ${dispatches} dispatches`);
    }
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish();
