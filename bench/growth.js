// How a training step grows: node bench/growth.js [--json] [--quick] [--adapter=NAME]
//
// One dimension at a time, from `laser demo`'s sizes: tokens of a text, items of the set, users of a batch, items of a
// history (which M-Former reads). The steps of all points of a curve are taken in turn, round after round, so that
// another program's load meets all of them alike. `npm run bench -- --report` draws the curves.

import { json, open, quick } from "./harness.js";
import { DEMO, TINY } from "./model.js";
import { spread } from "./spread.js";
import { openTraining } from "./training.js";

const ROUNDS = quick ? 5 : 9;
const base = quick ? TINY : { ...DEMO, batch: 16 };
/** What grows: the field of a size, what the axis says, and the values. */
const CURVES = [
  {
    field: "longest",
    axis: "tokens of the longest text",
    values: quick ? [20, 40] : [35, 70, 140, 280, 560],
  },
  { field: "items", axis: "items in the set", values: quick ? [50, 100] : [1000, 4000, 16000, 64000] },
  { field: "batch", axis: "users in a batch", values: quick ? [2, 4] : [4, 8, 16, 32, 64] },
  { field: "history", axis: "items in a history", values: quick ? [3, 6] : [3, 6, 12, 25, 50] },
];

const bench = await open("How a training step of Laser grows, random weights");
const { gpu } = bench;

async function curve({ field, axis, values }) {
  const trainings = [];
  for (const value of values) trainings.push(await openTraining(gpu, { ...base, [field]: value }));
  const times = trainings.map(() => []);
  for (let round = -1; round < ROUNDS; round++) {
    for (const [i, training] of trainings.entries()) {
      const { total } = await training.step();
      if (round >= 0) times[i].push(total); // The first compiles.
    }
  }
  const points = values.map((value, i) => ({ value, tokens: trainings[i].tokens, ...spread(times[i]) }));
  for (const training of trainings) training.release();
  bench.results.push({ field, axis, points });
  if (json) return;
  console.log(`\n${axis}`);
  for (const { value, tokens, median, least, most } of points) {
    const range = `(${least.toFixed(1)} .. ${most.toFixed(1)})`;
    const rate = `${Math.round((1000 * tokens) / median).toLocaleString("en")} tokens/s`;
    console.log(
      `${String(value).padStart(8)}  ${median.toFixed(1).padStart(9)} ms ${range.padEnd(24)} ${rate}`,
    );
  }
}

try {
  for (const each of CURVES) await curve(each);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
await bench.finish({ rounds: ROUNDS, base });
