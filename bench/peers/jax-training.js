/**
 * The small transformer (transformer.js) in @jax-js/jax: loss and gradients by valueAndGrad, Adam in the same function, the
 * whole step under one jit. Two forms of reading embeddings and logits: by index, and as products with one-hot rows.
 */
import { ADAM, COMPARED, EPSILON, parametersOf, RATE, tokensOf } from "./transformer.js";

export function jaxTraining(jax) {
  const { numpy: np, nn, jit, valueAndGrad, tree } = jax;

  const layerNorm = (x, weight, bias) => {
    const centred = x.ref.sub(np.mean(x, -1, { keepdims: true }));
    const variance = np.mean(np.square(centred.ref), -1, { keepdims: true });
    return centred
      .div(np.sqrt(variance.add(EPSILON)))
      .mul(weight)
      .add(bias);
  };
  const linear = (x, weight, bias) => np.matmul(x, np.matrixTranspose(weight)).add(bias);

  /** Mean cross-entropy of the batch. `p` holds every parameter once, and is used up. */
  const lossOf = (shape, indexed) => (p, ids, next) => {
    const { layers, width: d, heads, vocabulary, batch, length } = shape;
    const named = (name) => [p[`${name}.weight`], p[`${name}.bias`]];
    const embedded = indexed
      ? np.take(p.tokens.ref, ids, 0)
      : np.matmul(nn.oneHot(ids, vocabulary), p.tokens.ref);
    let x = embedded.reshape([batch, length, d]).add(p.positions);
    for (let n = 0; n < layers; n++) {
      const qkv = linear(layerNorm(x.ref, ...named(`${n}.norm1`)), ...named(`${n}.qkv`));
      const [q, k, v] = np.split(qkv, 3, -1).map((part) => part.reshape([batch, length, heads, d / heads]));
      const attended = nn.dotProductAttention(q, k, v, { isCausal: true }).reshape([batch, length, d]);
      x = x.add(linear(attended, ...named(`${n}.out`)));
      const hidden = nn.gelu(linear(layerNorm(x.ref, ...named(`${n}.norm2`)), ...named(`${n}.up`)), {
        approximate: true,
      });
      x = x.add(linear(hidden, ...named(`${n}.down`)));
    }
    const last = layerNorm(x, ...named("norm")).reshape([batch * length, d]);
    const logits = np.matmul(last, np.matrixTranspose(p.tokens));
    const right = np.sum(logits.ref.mul(nn.oneHot(next, vocabulary)), -1);
    return np.mean(nn.logsumexp(logits, -1).sub(right));
  };

  const adam = (p, m, v, gradient, corrections) => {
    const { beta1, beta2, eps } = ADAM;
    const [first, second] = corrections;
    const m1 = m.mul(beta1).add(gradient.ref.mul(1 - beta1));
    const v1 = v.mul(beta2).add(np.square(gradient).mul(1 - beta2));
    const change = m1.ref.mul(first).div(np.sqrt(v1.ref.mul(second)).add(eps));
    return [p.sub(change.mul(RATE)), m1, v1];
  };

  const form = (indexed) => (shape) => ({
    async start(toDevice) {
      const { shapes, values } = parametersOf(shape);
      const names = Object.keys(shapes);
      const { ids, next } = tokensOf(shape);
      const device = (initial) =>
        toDevice(names.map((name) => ({ data: initial(name), dims: shapes[name] }))).then((arrays) =>
          Object.fromEntries(names.map((name, i) => [name, arrays[i]])),
        );
      const zeros = (name) => new Float32Array(values[name].length);
      let state = { p: await device((name) => values[name]), m: await device(zeros), v: await device(zeros) };
      const [tokens, targets] = await toDevice(
        [ids, next].map((data) => ({ data: Int32Array.from(data), dims: [data.length] })),
      );
      const gradients = valueAndGrad(lossOf(shape, indexed));
      const step = jit((p, m, v, idsOf, nextOf, first, second) => {
        const [loss, gradient] = gradients(tree.ref(p), idsOf, nextOf);
        const result = { loss, p: {}, m: {}, v: {} };
        for (const name of names) {
          const made = adam(p[name], m[name], v[name], gradient[name], [first.ref, second.ref]);
          [result.p[name], result.m[name], result.v[name]] = made;
        }
        first.dispose();
        second.dispose();
        return result;
      });
      let updates = 0;
      const update = async () => {
        updates++;
        // The bias corrections change with every step: scalars of the function, not constants of its code.
        const corrections = [ADAM.beta1, ADAM.beta2].map((beta) =>
          np.array(new Float32Array([1 / (1 - beta ** updates)])).reshape([]),
        );
        const { loss, ...next } = step(state.p, state.m, state.v, tokens.ref, targets.ref, ...corrections);
        state = next;
        await jax.blockUntilReady(state);
        return (await loss.data())[0];
      };
      return {
        async check() {
          const losses = [];
          for (let i = 0; i < COMPARED; i++) losses.push(await update());
          return { losses };
        },
        async round(repetitions) {
          for (let i = 0; i < repetitions; i++) await update();
        },
        release() {
          tree.dispose(state);
          tokens.dispose();
          targets.dispose();
          step.dispose?.();
        },
      };
    },
  });
  return { "embeddings by one-hot products": form(false), "embeddings by np.take": form(true) };
}
