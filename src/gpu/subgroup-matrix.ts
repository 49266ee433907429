/** The subgroup matrices that kernels use: f16 operands, f32 sums. */
export interface SubgroupMatrix {
  /** Extents along M, N and K of one multiplication. */
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
  /** Invocations of a subgroup. */
  readonly lanes: number;
}

/** Extents that kernels are built for, the preferred first: NVIDIA's and AMD's, Intel's, Apple's and lavapipe's. */
export const MATRIX_EXTENTS = [
  [16, 16, 16],
  [8, 16, 16],
  [8, 8, 8],
] as const;

/** Subgroups that kernels with matrices are built for. */
export const MATRIX_LANES = [8, 16, 32, 64] as const;

/** What an adapter says of itself, with the part that WebGPU's types do not have yet. */
export interface MatrixInfo {
  readonly subgroupMinSize?: number;
  readonly subgroupMaxSize?: number;
  readonly subgroupMatrixConfigs?: Iterable<{
    readonly componentType: string;
    readonly resultComponentType: string;
    readonly M: number;
    readonly N: number;
    readonly K: number;
  }>;
}

/**
 * The matrices to use on a device, or null: it must have f16, subgroups of one size (a kernel's workgroup has a fixed
 * number of them) and one of MATRIX_EXTENTS, with sums in f32. On a software adapter a row of a matrix must have one lane:
 * lavapipe 26.1, which has 8 x 8 x 8 matrices only, crashes on them with subgroups of 16 (vectors of 512 bits).
 */
export function findSubgroupMatrix(
  features: ReadonlySet<string>,
  { subgroupMinSize, subgroupMaxSize, subgroupMatrixConfigs = [] }: MatrixInfo,
  software = false,
): SubgroupMatrix | null {
  const needed = ["shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"];
  const lanes = MATRIX_LANES.find((size) => size === subgroupMinSize && size === subgroupMaxSize);
  if (!lanes || !needed.every((feature) => features.has(feature))) return null;
  const configs = [...subgroupMatrixConfigs];
  for (const [rows, columns, depth] of MATRIX_EXTENTS) {
    const offered = configs.some(
      ({ componentType, resultComponentType, M, N, K }) =>
        componentType === "f16" &&
        resultComponentType === "f32" &&
        M === rows &&
        N === columns &&
        K === depth,
    );
    if (offered && (!software || lanes === rows)) return { rows, columns, depth, lanes };
  }
  return null;
}
