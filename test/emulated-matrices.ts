/**
 * Subgroup matrices made of plain WGSL, so that a kernel for tensor cores runs, with extents and subgroups of any GPU, on
 * adapters that have none. Only what a driver does by itself is replaced: types, load, store, multiplication, and the
 * numbering of lanes. Tiles, offsets, pitches, barriers and everything else stay the kernel's own text. Shuffles, which reach
 * at most three lanes on, are the adapter's own: its subgroups need four lanes, in the order of the workgroup's.
 */
import type { Gpu } from "../src/gpu/device.ts";
import type { SubgroupMatrix } from "../src/gpu/subgroup-matrix.ts";

const FEATURE = "enable chromium_experimental_subgroup_matrix;\n";

/** Makes kernels of `gpu` compute with matrices of these extents, in plain WGSL. Needs f16 and subgroups. */
export function emulateMatrices(gpu: Gpu, matrix: SubgroupMatrix): void {
  gpu.subgroupMatrix = matrix;
  if (emulating.has(gpu)) return;
  emulating.add(gpu);
  const { device } = gpu;
  const make = device.createShaderModule.bind(device);
  device.createShaderModule = (descriptor) => make({ ...descriptor, code: emulated(descriptor.code) });
}
const emulating = new WeakSet<Gpu>();

/**
 * A kernel's text with its matrices in arrays: a lane holds whole rows of left matrices and of sums. A right matrix is a
 * place in workgroup memory, read when it is multiplied: kernels multiply it before the next barrier.
 */
export function emulated(source: string): string {
  if (!source.includes(FEATURE)) return source;
  // 0, which no compiler can know: unrolled, the loops would take minutes to compile.
  const hidden = `(params.${/^struct Params \{\s*(\w+):/m.exec(source)?.[1]} >> 30u)`;
  const lefts = new Set<string>();
  const rights = new Set<string>();
  const text = source
    .replace(FEATURE, "")
    .replace("requires subgroup_id;\n", "")
    .replace("diagnostic(off, chromium.subgroup_matrix_uniformity);\n", "")
    .replaceAll("subgroup_matrix_left<f16, DEPTH, ROWS>", "Left")
    .replaceAll("subgroup_matrix_right<f16, COLUMNS, DEPTH>", "Right")
    .replaceAll("subgroup_matrix_result<f32, COLUMNS, ROWS>", "Sums")
    .replace(/subgroupMatrixLoad<Left, row_major>\(\s*&(\w+),/g, (_, memory) => {
      lefts.add(memory);
      return `load_left_${memory}(`;
    })
    .replace(/subgroupMatrixLoad<Right, (row|col)_major>\(\s*&(\w+),/g, (_, order, memory) => {
      rights.add(memory);
      return `Right(${order === "col"},`;
    })
    .replace(/subgroupMatrixStore<row_major>\(&(\w+),/g, "store_$1(")
    .replaceAll("subgroupMatrixMultiplyAccumulate(", "multiply_accumulate(")
    .replace(/(for \(var (\w+) = 0u; \2 < [^;]*);/g, `$1 + ${hidden};`)
    .replace(/,\s*@builtin\(subgroup_id\) subgroup: u32/, "")
    .replace(/,\s*@builtin\(subgroup_invocation_id\) lane: u32/, "")
    .replace(
      /^fn main\([^{]*\{\n/m,
      "$&  let subgroup = index / SUBGROUP;\n  let lane = index % SUBGROUP;\n  own_lane = lane;\n",
    );
  const known =
    rights.size === 1 && !/subgroup_?[mM]atrix|subgroup_(invocation_)?id/.test(text.replace(/\/\/.*/g, ""));
  if (!known) throw new Error("a use of matrices that test/emulated-matrices.ts does not know");
  const memories = [...new Set([...lefts, ...rights])];
  const stores = new Set([...text.matchAll(/\bstore_(\w+)\(/g)].map(([, memory]) => memory));
  const parts = [
    ...memories.map(halfOf),
    matricesOf([...rights][0]),
    ...[...lefts].map(loadOf),
    ...[...stores].map(storeOf),
  ];
  return text + parts.join("").replaceAll("HIDDEN", hidden);
}

/** Element h, in f16, of a memory with eight of them an element. */
const halfOf = (memory: string) => `
fn half_${memory}(h: u32) -> f32 { return unpack2x16float(${memory}[h / 8u][h / 2u % 4u])[h % 2u]; }
`;

const matricesOf = (right: string) => `
// Rows of a matrix that a lane holds; lanes past the rows hold them once more.
const OWN = max(1u, ROWS / SUBGROUP);
var<private> own_lane: u32;
struct Left { at: array<f32, OWN * DEPTH> }
struct Right { transposed: bool, offset: u32, pitch: u32 }
struct Sums { at: array<f32, OWN * COLUMNS> }

fn multiply_accumulate(left: Left, right: Right, sums: Sums) -> Sums {
  var a = left;
  var c = sums;
  for (var k = 0u; k < DEPTH + HIDDEN; k++) {
    for (var j = 0u; j < COLUMNS + HIDDEN; j++) {
      let b = half_${right}(8u * right.offset + select(8u * k * right.pitch + j, 8u * j * right.pitch + k, right.transposed));
      for (var row = 0u; row < OWN + HIDDEN; row++) { c.at[row * COLUMNS + j] += a.at[row * DEPTH + k] * b; }
    }
  }
  return c;
}
`;

const loadOf = (memory: string) => `
fn load_left_${memory}(offset: u32, pitch: u32) -> Left {
  var loaded: Left;
  for (var i = 0u; i < OWN * DEPTH + HIDDEN; i++) {
    let row = (own_lane + i / DEPTH * SUBGROUP) % ROWS;
    loaded.at[i] = half_${memory}(8u * (offset + row * pitch) + i % DEPTH);
  }
  return loaded;
}
`;

/** The store of sums to a memory of u32 in groups of four. */
const storeOf = (memory: string) => `
fn store_${memory}(offset: u32, sums: Sums, pitch: u32) {
  if (own_lane >= ROWS) { return; }
  for (var i = 0u; i < OWN * COLUMNS + HIDDEN; i++) {
    let j = i % COLUMNS;
    ${memory}[offset + (own_lane + i / COLUMNS * SUBGROUP) * pitch + j / 4u][j % 4u] = bitcast<u32>(sums.at[i]);
  }
}
`;
