// What the device can do at most: node bench/limits.js [--json] [--quick] [--adapter=NAME]
import { json, open } from "./harness.js";

const bench = await open("Limits of this device");
if (!json) {
  const { gflops, matrixGflops, gbytes, kernelGbytes, dispatch } = bench.limits;
  console.log(`f32 multiply-adds from registers   ${gflops.toFixed(1)} GFLOP/s`);
  const matrices = matrixGflops ? `${matrixGflops.toFixed(1)} GFLOP/s` : "none here";
  console.log(`f16 subgroup matrices, f32 sums    ${matrices}`);
  console.log(`copying kernel, read + written     ${kernelGbytes.toFixed(1)} GB/s`);
  console.log(`copy of a buffer, read + written   ${gbytes.toFixed(1)} GB/s`);
  console.log(`one more dispatch in a step        ${(1000 * dispatch.each).toFixed(0)} us`);
  console.log(`submit and wait                    ${(1000 * dispatch.submitAndWait).toFixed(0)} us`);
}
await bench.finish();
