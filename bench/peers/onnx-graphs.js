/**
 * The graphs by which onnxruntime does each work: { nodes, inputs: { name: { dims, data } }, outputs: { name: dims },
 * initializers, integers, small, results }. `results` turns the host's outputs into the case's. `small` outputs come to the
 * host with every run; the others stay on the GPU. Gradients are in no operator that onnxruntime-node has.
 */
import { byHead, byRow, transposed } from "./heads.js";
import { floats, int32s, int64s, node } from "./onnx-model.js";

export const graphs = {
  product: {
    MatMul: ({ m, k, n }, { x, w }) => ({
      nodes: [node("MatMul", ["x", "w"], ["y"])],
      inputs: { x: { dims: [m, k], data: x }, w: { dims: [k, n], data: transposed(w, n) } },
      outputs: { y: [m, n] },
    }),
    "Gemm, transposed weight": ({ m, k, n }, { x, w }) => ({
      nodes: [node("Gemm", ["x", "w"], ["y"], { transB: 1 })],
      inputs: { x: { dims: [m, k], data: x }, w: { dims: [n, k], data: w } },
      outputs: { y: [m, n] },
    }),
  },
  attention: {
    "MultiHeadAttention (fused)": (shape, inputs) =>
      fused(shape, inputs, ({ heads }) => [
        node(
          "MultiHeadAttention",
          ["q", "k", "v"],
          ["o"],
          { num_heads: heads, unidirectional: 1 },
          MICROSOFT,
        ),
      ]),
    "GroupQueryAttention (fused)": groupQueryAttention,
    "MatMul, Softmax, MatMul": (shape, inputs) =>
      plain({ sequences: 1, queries: shape.length, keys: shape.length, causal: true, ...shape }, inputs),
  },
  "cross-attention": {
    "MultiHeadAttention (fused)": ({ users, ...shape }, inputs) =>
      fused({ sequences: users, ...shape }, inputs, ({ heads }) => [
        node("MultiHeadAttention", ["q", "k", "v"], ["o"], { num_heads: heads }, MICROSOFT),
      ]),
    "MatMul, Softmax, MatMul": ({ users, ...shape }, inputs) =>
      plain({ sequences: users, causal: false, ...shape }, inputs),
  },
  "log-sum-exp": {
    "MatMul, ReduceLogSumExp": (shape, inputs) => reduced(shape, inputs, false),
    "Gemm of items as stored, ReduceLogSumExp": (shape, inputs) => reduced(shape, inputs, true),
    "MatMul, ReduceMax, Sub, Exp, ReduceSum, Log": (shape, inputs) => {
      const { scores, ...graph } = scored(shape, inputs, false);
      return {
        ...graph,
        nodes: [
          ...graph.nodes,
          node("ReduceMax", [scores], ["top"], { axes: [1], keepdims: 1 }),
          node("Sub", [scores, "top"], ["shifted"]),
          node("Exp", ["shifted"], ["weights"]),
          node("ReduceSum", ["weights", "axis"], ["total"], { keepdims: 1 }),
          node("Log", ["total"], ["logarithm"]),
          node("Add", ["logarithm", "top"], ["lse"]),
        ],
        outputs: { lse: [shape.queries, 1] },
        initializers: [int64s("axis", [1])],
      };
    },
  },
  "top-items": {
    "MatMul, TopK": (shape, inputs) => {
      const { scores, ...graph } = scored(shape, inputs, false);
      const outputs = { scores: [shape.queries, shape.k], ids: [shape.queries, shape.k] };
      return {
        ...graph,
        nodes: [...graph.nodes, node("TopK", [scores, "k"], ["scores", "ids"])],
        outputs,
        initializers: [int64s("k", [shape.k])],
        integers: ["ids"],
        small: Object.keys(outputs),
        results: (found) => ({ scores: found.scores, ids: Float64Array.from(found.ids, Number) }),
      };
    },
    "MatMul, then k maxima in turn": maxima,
  },
};

const MICROSOFT = "com.microsoft";

/** q, k and v as rows with the heads side by side, which the fused operators read. */
function fused(shape, { q, k, v }, nodesOf) {
  const { sequences = 1, length, queries = length, keys = length, heads, headSize } = shape;
  const width = heads * headSize;
  return {
    nodes: nodesOf(shape),
    inputs: {
      q: { dims: [sequences, queries, width], data: q },
      k: { dims: [sequences, keys, width], data: k },
      v: { dims: [sequences, keys, width], data: v },
    },
    outputs: { o: [sequences, queries, width] },
  };
}

/** Causal by definition. Its copy of keys and values, the cache of a generation, is made and left. */
function groupQueryAttention(shape, inputs) {
  const { heads, length } = shape;
  const graph = fused(shape, inputs, () => [
    node(
      "GroupQueryAttention",
      ["q", "k", "v", "", "", "last", "total"],
      ["o", "keys", "values"],
      { num_heads: heads, kv_num_heads: heads },
      MICROSOFT,
    ),
  ]);
  return { ...graph, initializers: [int32s("last", [length - 1]), int32s("total", [length])] };
}

/** Softmax between two batched products, heads apart: what an exported graph without fused operators holds. */
function plain({ sequences, queries, keys, heads, headSize, causal }, inputs) {
  const batch = sequences * heads;
  const of = (data, length) => ({
    dims: [batch, length, headSize],
    data: byHead(data, { sequences, length, heads, headSize }),
  });
  const mask = Float32Array.from({ length: queries * keys }, (_, i) =>
    i % keys > Math.floor(i / keys) ? -3e38 : 0,
  );
  return {
    nodes: [
      node("Transpose", ["k"], ["kt"], { perm: [0, 2, 1] }),
      node("MatMul", ["q", "kt"], ["products"]),
      node("Mul", ["products", "scale"], ["scores"]),
      ...(causal ? [node("Add", ["scores", "mask"], ["masked"])] : []),
      node("Softmax", [causal ? "masked" : "scores"], ["weights"], { axis: -1 }),
      node("MatMul", ["weights", "v"], ["o"]),
    ],
    inputs: {
      q: of(inputs.q, queries),
      k: of(inputs.k, keys),
      v: of(inputs.v, keys),
      ...(causal ? { mask: { dims: [queries, keys], data: mask } } : {}),
    },
    outputs: { o: [batch, queries, headSize] },
    initializers: [floats("scale", [], [1 / Math.sqrt(headSize)])],
    results: ({ o }) => ({ o: byRow(o, { sequences, length: queries, heads, headSize }) }),
  };
}

/** scores [queries, items]; the items [width, items], or as they are stored, [items, width]. */
function scored({ queries, items: count, width }, { h, items }, stored) {
  return {
    scores: "products",
    nodes: [
      stored
        ? node("Gemm", ["h", "items"], ["products"], { transB: 1 })
        : node("MatMul", ["h", "items"], ["products"]),
    ],
    inputs: {
      h: { dims: [queries, width], data: h },
      items: stored
        ? { dims: [count, width], data: items }
        : { dims: [width, count], data: transposed(items, count) },
    },
  };
}

function reduced(shape, inputs, stored) {
  const { scores, ...graph } = scored(shape, inputs, stored);
  return {
    ...graph,
    nodes: [...graph.nodes, node("ReduceLogSumExp", [scores], ["lse"], { axes: [1], keepdims: 0 })],
    outputs: { lse: [shape.queries] },
  };
}

/** Top-k without a sort: k times the largest score, the first item that has it, and that item's score away. */
function maxima(shape, inputs) {
  const { queries, items: count, k } = shape;
  const { scores, ...graph } = scored(shape, inputs, false);
  const nodes = [...graph.nodes];
  const found = { scores: [], ids: [] };
  let left = scores;
  for (let i = 0; i < k; i++) {
    nodes.push(
      node("ReduceMax", [left], [`top${i}`], { axes: [1], keepdims: 1 }),
      node("Equal", [left, `top${i}`], [`is${i}`]),
      node("Where", [`is${i}`, "places", "far"], [`at${i}`]),
      node("ReduceMin", [`at${i}`], [`id${i}`], { axes: [1], keepdims: 1 }),
    );
    found.scores.push(`top${i}`);
    found.ids.push(`id${i}`);
    if (i === k - 1) break;
    nodes.push(
      node("Equal", ["places", `id${i}`], [`taken${i}`]),
      node("Where", [`taken${i}`, "low", left], [`left${i}`]),
    );
    left = `left${i}`;
  }
  for (const name in found) nodes.push(node("Concat", found[name], [name], { axis: 1 }));
  const outputs = { scores: [queries, k], ids: [queries, k] };
  return {
    ...graph,
    nodes,
    inputs: {
      ...graph.inputs,
      places: { dims: [1, count], data: Float32Array.from({ length: count }, (_, i) => i) },
    },
    outputs,
    initializers: [floats("far", [1], [3e38]), floats("low", [1], [-3e38])],
    small: Object.keys(outputs),
  };
}
