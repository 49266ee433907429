/**
 * Each work written with @jax-js/jax: { inputs: [{ data, dims }], run(...arrays) -> arrays by name, results }. Its functions
 * take ownership of what they are given: `.ref` keeps an array for another use.
 */
import { byHead, byRow, transposed } from "./heads.js";
import { jaxTraining } from "./jax-training.js";

export function worksOf(jax) {
  const { numpy: np, nn, lax, vjp } = jax;

  /** Arrays [length, heads, headSize], jax's layout: q, k, v. */
  const rows = ({ heads, headSize }, inputs) =>
    inputs.map((data) => ({ data, dims: [data.length / heads / headSize, heads, headSize] }));

  /** softmax(q k^T / sqrt(headSize)) v with heads apart, [batch, length, headSize] each. */
  const plainAttention = (q, k, v, length, headSize, causal) => {
    let scores = np.matmul(q, np.matrixTranspose(k)).mul(1 / Math.sqrt(headSize));
    if (causal) scores = np.where(np.tri(length, length, 0, { dtype: np.bool }), scores, -Infinity);
    return np.matmul(nn.softmax(scores, -1), v);
  };
  const apart = ({ length, heads, headSize }, inputs) =>
    inputs.map((data) => ({
      data: byHead(data, { sequences: 1, length, heads, headSize }),
      dims: [heads, length, headSize],
    }));
  const together =
    ({ length, heads, headSize }) =>
    (outputs) =>
      Object.fromEntries(
        Object.entries(outputs).map(([name, o]) => [
          name,
          byRow(o, { sequences: 1, length, heads, headSize }),
        ]),
      );
  /** o and the gradients of sum(o * dO). */
  const withGradients = (attend) => (q, k, v, dO) => {
    const [o, pull] = vjp(attend, [q, k, v]);
    const [dq, dk, dv] = pull(dO);
    pull.dispose?.();
    return { o, dq, dk, dv };
  };

  const items = ({ queries, items: count, width }, { h, items: rows }, stored) => [
    { data: h, dims: [queries, width] },
    stored ? { data: rows, dims: [count, width] } : { data: transposed(rows, count), dims: [width, count] },
  ];
  const scores = (h, rows, stored) => np.matmul(h, stored ? np.matrixTranspose(rows) : rows);

  return {
    product: {
      matmul: ({ m, k, n }, { x, w }) => ({
        inputs: [
          { data: x, dims: [m, k] },
          { data: transposed(w, n), dims: [k, n] },
        ],
        run: (a, b) => ({ y: np.matmul(a, b) }),
      }),
      "matmul, transposed weight": ({ m, k, n }, { x, w }) => ({
        inputs: [
          { data: x, dims: [m, k] },
          { data: w, dims: [n, k] },
        ],
        run: (a, b) => ({ y: np.matmul(a, np.matrixTranspose(b)) }),
      }),
    },
    attention: {
      "nn.dotProductAttention": (shape, { q, k, v }) => ({
        inputs: rows(shape, [q, k, v]),
        run: (...qkv) => ({ o: nn.dotProductAttention(...qkv, { isCausal: true }) }),
      }),
      "matmul, softmax, matmul": (shape, { q, k, v }) => ({
        inputs: apart(shape, [q, k, v]),
        run: (...qkv) => ({ o: plainAttention(...qkv, shape.length, shape.headSize, true) }),
        results: together(shape),
      }),
    },
    "attention-gradient": {
      "nn.dotProductAttention, vjp": (shape, { q, k, v, dO }) => ({
        inputs: rows(shape, [q, k, v, dO]),
        run: withGradients((...qkv) => nn.dotProductAttention(...qkv, { isCausal: true })),
      }),
      "matmul, softmax, matmul, vjp": (shape, { q, k, v, dO }) => ({
        inputs: apart(shape, [q, k, v, dO]),
        run: withGradients((...qkv) => plainAttention(...qkv, shape.length, shape.headSize, true)),
        results: together(shape),
      }),
    },
    "cross-attention": {
      "nn.dotProductAttention": ({ users, heads, headSize, queries, keys }, { q, k, v }) => ({
        inputs: [q, k, v].map((data, i) => ({ data, dims: [users, i ? keys : queries, heads, headSize] })),
        run: (...qkv) => ({ o: nn.dotProductAttention(...qkv) }),
      }),
      "matmul, softmax, matmul": ({ users, heads, headSize, queries, keys }, { q, k, v }) => ({
        inputs: [q, k, v].map((data, i) => ({
          data: byHead(data, { sequences: users, length: i ? keys : queries, heads, headSize }),
          dims: [users * heads, i ? keys : queries, headSize],
        })),
        run: (...qkv) => ({ o: plainAttention(...qkv, 0, headSize, false) }),
        results: ({ o }) => ({ o: byRow(o, { sequences: users, length: queries, heads, headSize }) }),
      }),
    },
    "log-sum-exp": {
      "matmul, nn.logsumexp": (shape, inputs) => ({
        inputs: items(shape, inputs, false),
        run: (h, rows) => ({ lse: nn.logsumexp(scores(h, rows, false), -1) }),
      }),
      "matmul of items as stored, nn.logsumexp": (shape, inputs) => ({
        inputs: items(shape, inputs, true),
        run: (h, rows) => ({ lse: nn.logsumexp(scores(h, rows, true), -1) }),
      }),
    },
    "top-items": {
      "matmul, lax.topK": (shape, inputs) => ({
        inputs: items(shape, inputs, false),
        run: (h, rows) => {
          const [top, ids] = lax.topK(scores(h, rows, false), shape.k);
          return { scores: top, ids };
        },
      }),
      "matmul, then k maxima in turn": (shape, inputs) => ({
        inputs: items(shape, inputs, false),
        run: (h, rows) => {
          const places = np.arange(shape.items, undefined, undefined, { dtype: np.float32 });
          let left = scores(h, rows, false);
          const found = { scores: [], ids: [] };
          for (let i = 0; i < shape.k; i++) {
            const top = np.max(left.ref, -1, { keepdims: true });
            const at = np.where(left.ref.equal(top.ref), places.ref, Infinity);
            const id = np.min(at, -1, { keepdims: true });
            found.scores.push(top);
            found.ids.push(id.ref);
            left = np.where(places.ref.equal(id), -Infinity, left);
          }
          left.dispose();
          places.dispose();
          return { scores: np.concatenate(found.scores, -1), ids: np.concatenate(found.ids, -1) };
        },
      }),
    },
    training: jaxTraining(jax),
  };
}
