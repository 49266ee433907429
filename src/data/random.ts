// The project's one source of chance on the host: the generator xoshiro128** (Blackman and Vigna, 2018), 128 bits of
// state, period 2^128 - 1, seeded from any list of keys. A stream is named by its keys, not by how often another one
// was used: `new Random(seed, "order", epoch)` gives the order of epoch 7 without having drawn epochs 0 to 6, which
// is what resuming a run needs. (Dropout has its own counter-based generator on the GPU.)

/** A deterministic random stream; the same keys give the same numbers on every machine. */
export class Random {
  readonly #state: Uint32Array;

  /** The stream named by `keys`, for example (seed, "users"). The string "1" and the number 1 are different keys. */
  constructor(...keys: readonly (string | number)[]) {
    const name = JSON.stringify(keys);
    this.#state = Uint32Array.from([1, 2, 3, 4], (salt) => hashText(name, salt));
    if (this.#state.every((word) => word === 0)) this.#state[0] = 1;
  }

  /** A stream that continues from a state saved with `state()`. */
  static from(state: readonly number[]): Random {
    const random = new Random();
    random.#state.set(state);
    return random;
  }

  /** The four words of state, for a checkpoint. */
  state(): number[] {
    return [...this.#state];
  }

  /** The next 32 random bits. */
  u32(): number {
    const s = this.#state;
    const result = Math.imul(rotateLeft(Math.imul(s[1], 5), 7), 9) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotateLeft(s[3], 11);
    return result;
  }

  /** Uniform in [0, 1), a multiple of 2^-32. */
  uniform(): number {
    return this.u32() / 2 ** 32;
  }

  /** Uniform integer in 0 .. n-1, exactly (by rejection); n from 1 to 2^32. */
  below(n: number): number {
    const limit = 2 ** 32 - (2 ** 32 % n);
    for (;;) {
      const bits = this.u32();
      if (bits < limit) return bits % n;
    }
  }

  /** Standard normal (Box and Muller; the second of each pair is not kept, so that the state is all there is). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** One element of a list that is not empty. */
  pick<T>(list: ArrayLike<T>): T {
    return list[this.below(list.length)];
  }

  /** An index drawn in proportion to weights >= 0, at least one of them positive. */
  weighted(weights: ArrayLike<number>): number {
    let total = 0;
    for (let i = 0; i < weights.length; i++) total += weights[i];
    let left = this.uniform() * total;
    let last = 0;
    for (let i = 0; i < weights.length; i++) {
      if (!(weights[i] > 0)) continue;
      last = i;
      left -= weights[i];
      if (left < 0) break;
    }
    return last;
  }

  /** Shuffles in place (Fisher and Yates) and returns the same list. */
  shuffle<T extends Uint32Array | unknown[]>(list: T): T {
    for (let i = list.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      const held = list[i];
      list[i] = list[j];
      list[j] = held;
    }
    return list;
  }

  /** A random order of 0 .. n-1. */
  permutation(n: number): Uint32Array {
    return this.shuffle(Uint32Array.from({ length: n }, (_, i) => i));
  }
}

function rotateLeft(x: number, k: number): number {
  return (x << k) | (x >>> (32 - k));
}

/** FNV-1a over the UTF-16 units from a salted start, then MurmurHash3's finaliser so that every bit depends on all. */
function hashText(text: string, salt: number): number {
  let hash = Math.imul(0x811c9dc5 ^ salt, 0x9e3779b1);
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
