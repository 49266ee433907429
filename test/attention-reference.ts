/** Rows [rows, heads, h] of plain attention, in float64: the definition, with every score in memory. */
export interface Problem {
  readonly q: ArrayLike<number>;
  readonly k: ArrayLike<number>;
  readonly v: ArrayLike<number>;
  readonly dO: ArrayLike<number>;
  readonly heads: number;
  readonly groups: number;
  readonly h: number;
  /** Which query rows read which key rows (half-open), in order. */
  readonly spans: readonly { queries: readonly [number, number]; keys: readonly [number, number] }[];
  /** Query row r reads only the key rows up to r. */
  readonly causal: boolean;
}

/** The spans of self-attention over packed sequences. */
export function sequences(lengths: readonly number[]): Problem["spans"] {
  let row = 0;
  return lengths.map((length) => {
    const rows: [number, number] = [row, row + length];
    row += length;
    return { queries: rows, keys: rows };
  });
}

/** o, lse (natural) and, through the softmax's Jacobian, dq, dk, dv of sum(o * dO). */
export function attentionReference({ q, k, v, dO, heads, groups, h, spans, causal }: Problem) {
  const rows = q.length / (heads * h);
  const o = new Float64Array(q.length);
  const lse = new Float64Array(rows * heads);
  const dq = new Float64Array(q.length);
  const dk = new Float64Array(k.length);
  const dv = new Float64Array(v.length);
  const scale = 1 / Math.sqrt(h);
  for (const { queries, keys } of spans) {
    for (let row = queries[0]; row < queries[1]; row++) {
      const end = causal ? row + 1 : keys[1];
      for (let head = 0; head < heads; head++) {
        const at = (row * heads + head) * h;
        const keyAt = (key: number) => (key * groups + Math.floor(head / (heads / groups))) * h;
        const p: number[] = [];
        const dp: number[] = [];
        let top = Number.NEGATIVE_INFINITY;
        for (let key = keys[0]; key < end; key++) {
          let score = 0;
          let gradient = 0;
          for (let d = 0; d < h; d++) {
            score += q[at + d] * k[keyAt(key) + d];
            gradient += dO[at + d] * v[keyAt(key) + d];
          }
          p.push(score * scale);
          dp.push(gradient);
          top = Math.max(top, score * scale);
        }
        let sum = 0;
        for (let j = 0; j < p.length; j++) sum += Math.exp(p[j] - top);
        lse[row * heads + head] = top + Math.log(sum);
        let mean = 0;
        for (let j = 0; j < p.length; j++) {
          p[j] = Math.exp(p[j] - top) / sum;
          mean += p[j] * dp[j];
        }
        for (let j = 0; j < p.length; j++) {
          const key = keyAt(keys[0] + j);
          const ds = p[j] * (dp[j] - mean) * scale;
          for (let d = 0; d < h; d++) {
            o[at + d] += p[j] * v[key + d];
            dv[key + d] += p[j] * dO[at + d];
            dq[at + d] += ds * k[key + d];
            dk[key + d] += ds * q[at + d];
          }
        }
      }
    }
  }
  return { o, lse, dq, dk, dv };
}
