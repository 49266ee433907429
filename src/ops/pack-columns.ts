import { kernels } from "../gpu/kernels.generated.ts";
import type { Step } from "../gpu/step.ts";
import type { Tensor } from "../gpu/tensor.ts";
import { PACKED_STEP, type PackedRows } from "./pack-rows.ts";

/** Rows that one lane of column_peaks.wgsl looks through: its constant BAND. */
const BAND = 128;
/** What a workgroup of pack_columns.wgsl turns over. */
const TILE = { rows: 64, columns: 32 };

/**
 * Packs the columns of a [rows, columns], rows `lda` apart from element `offset` on, as rows [columns, rows] of f16 with a
 * power of two each: the left operand of a weight gradient on tensor cores. Free both tensors after use.
 */
export function packColumns(
  step: Step,
  a: Tensor,
  { rows, columns, lda, offset }: { rows: number; columns: number; lda: number; offset: number },
): PackedRows {
  const bands = Math.ceil(rows / BAND);
  const words = (Math.ceil(rows / PACKED_STEP) * PACKED_STEP) / 2;
  const peaks = step.tensor([bands, columns], "u32");
  step.run(kernels.column_peaks, {
    bindings: { a, peaks },
    params: { rows, columns, lda, a_offset: offset },
    workgroups: [Math.ceil(columns / 64), bands],
    cost: { flops: rows * columns, bytes: 4 * rows * columns },
  });
  const packed = step.tensor([columns, words], "u32");
  const scales = step.tensor([columns]);
  step.run(kernels.pack_columns, {
    bindings: { a, peaks, packed, scales },
    params: { rows, columns, lda, a_offset: offset, words, bands },
    workgroups: [Math.ceil(columns / TILE.columns), Math.ceil(rows / TILE.rows)],
    cost: { flops: rows * columns, bytes: 4 * rows * columns + packed.bytes },
  });
  step.free(peaks);
  return { packed, scales };
}
