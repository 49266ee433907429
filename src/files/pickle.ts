import { OPCODE_NAMES } from "./pickle-opcodes.ts";
import type { UserError } from "./user-error.ts";

/**
 * A reader of Python pickles that cannot run anything. It knows the opcodes that `torch.save` writes for a state dict
 * (protocol 2: numbers, strings, tuples, dicts, the memo) and the globals it is given; every other opcode and global is
 * refused by name. A global is only a name and, where the pickle may call it, a function of this program.
 *
 * One value or reference a byte of input at most: memory and time are bounded by the pickle's length.
 */
export type PickleValue = string | number | boolean | null | readonly PickleValue[] | PickleDict | object;

/** A dict or OrderedDict. */
export class PickleDict {
  readonly entries = new Map<string | number, PickleValue>();
}

export class PickleGlobal {
  constructor(
    /** As Python writes it: "torch._utils._rebuild_tensor_v2". */
    readonly name: string,
    /** What a call of it gives; null for one that must not be called (a class that is only named). */
    readonly call: ((args: readonly PickleValue[]) => PickleValue) | null = null,
  ) {}
}

export interface PickleOptions {
  /** The globals that may occur. */
  readonly globals: ReadonlyMap<string, PickleGlobal>;
  /** The object that a persistent id stands for. */
  readonly persistent: (id: PickleValue) => PickleValue;
  /** Makes the error for what is wrong; `refused` says that the pickle asks for something that is not allowed. */
  readonly fail: (what: string, refused: boolean) => UserError;
}

/** What a value is, for messages. Never its content: shared tuples can make that exponentially long. */
export function kindOf(value: PickleValue): string {
  if (value === null) return "None";
  if (Array.isArray(value)) return `a tuple of ${value.length}`;
  if (value instanceof PickleDict) return `a dict of ${value.entries.size}`;
  if (value instanceof PickleGlobal) return value.name;
  if (typeof value === "string") return "a string";
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "number" ? String(value) : "an object";
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Reads one pickle, which must be all that `bytes` holds. Throws what `options.fail` makes. */
export function readPickle(bytes: Uint8Array, options: PickleOptions): PickleValue {
  return new Unpickler(bytes, options).run();
}

class Unpickler {
  private readonly view: DataView;
  private at = 0;
  private readonly stack: PickleValue[] = [];
  /** Heights of the stack at the marks that are open. */
  private readonly marks: number[] = [];
  private readonly memo = new Map<number, PickleValue>();

  constructor(
    private readonly bytes: Uint8Array,
    private readonly options: PickleOptions,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  run(): PickleValue {
    for (;;) {
      const opcode = this.bytes[this.take(1)];
      const name = OPCODE_NAMES[opcode];
      if (name === "STOP") break;
      this.step(name, opcode);
    }
    if (this.at !== this.bytes.byteLength) throw this.damaged("bytes follow its end");
    const value = this.pop();
    if (this.stack.length > 0 || this.marks.length > 0) throw this.damaged("it leaves more than one value");
    return value;
  }

  private step(name: string | undefined, opcode: number): void {
    const { stack, view } = this;
    switch (name) {
      case "PROTO": {
        const version = this.bytes[this.take(1)];
        if (version !== 2) throw this.refused(`protocol ${version}, expected 2 (torch.save's default)`);
        break;
      }
      case "MARK":
        this.marks.push(stack.length);
        break;
      case "NONE":
        stack.push(null);
        break;
      case "NEWTRUE":
        stack.push(true);
        break;
      case "NEWFALSE":
        stack.push(false);
        break;
      case "BININT":
        stack.push(view.getInt32(this.take(4), true));
        break;
      case "BININT1":
        stack.push(this.bytes[this.take(1)]);
        break;
      case "BININT2":
        stack.push(view.getUint16(this.take(2), true));
        break;
      case "LONG1":
        stack.push(this.long());
        break;
      case "BINUNICODE":
        stack.push(this.text());
        break;
      case "EMPTY_TUPLE":
        stack.push([]);
        break;
      case "TUPLE1":
      case "TUPLE2":
      case "TUPLE3":
        stack.push(this.popMany(Number(name.at(-1))));
        break;
      case "TUPLE":
        stack.push(this.popToMark());
        break;
      case "EMPTY_DICT":
        stack.push(new PickleDict());
        break;
      case "SETITEM":
        this.setItems(this.popMany(2));
        break;
      case "SETITEMS":
        this.setItems(this.popToMark());
        break;
      case "BINPUT":
        this.memo.set(this.bytes[this.take(1)], this.top());
        break;
      case "LONG_BINPUT":
        this.memo.set(view.getUint32(this.take(4), true), this.top());
        break;
      case "BINGET":
        stack.push(this.recall(this.bytes[this.take(1)]));
        break;
      case "LONG_BINGET":
        stack.push(this.recall(view.getUint32(this.take(4), true)));
        break;
      case "GLOBAL":
        stack.push(this.global());
        break;
      case "REDUCE":
        this.reduce();
        break;
      case "BUILD":
        this.build();
        break;
      case "BINPERSID":
        stack.push(this.options.persistent(this.pop()));
        break;
      default:
        throw this.refused(`opcode ${name ?? `0x${opcode.toString(16).padStart(2, "0")}`}`);
    }
  }

  /** Moves on by `count` bytes; gives where they begin. */
  private take(count: number): number {
    if (this.at + count > this.bytes.byteLength) throw this.damaged("it is cut off");
    this.at += count;
    return this.at - count;
  }

  private text(): string {
    const length = this.view.getUint32(this.take(4), true);
    const start = this.take(length);
    return this.decode(this.bytes.subarray(start, start + length));
  }

  private decode(bytes: Uint8Array): string {
    try {
      return utf8.decode(bytes);
    } catch {
      throw this.damaged("a string is not UTF-8");
    }
  }

  /** A whole number of at most 8 bytes, little-endian two's complement, as sizes beyond 2^31 are written. */
  private long(): number {
    const length = this.bytes[this.take(1)];
    const start = this.take(length);
    let value = 0n;
    for (let i = 0; i < Math.min(length, 8); i++) value |= BigInt(this.bytes[start + i]) << BigInt(8 * i);
    const number = Number(BigInt.asIntN(8 * Math.min(length, 8), value));
    if (length > 8 || !Number.isSafeInteger(number)) throw this.damaged("a number is beyond 2^53");
    return number;
  }

  private line(): string {
    const end = this.bytes.indexOf(10, this.at);
    if (end < 0) throw this.damaged("it is cut off");
    const start = this.take(end + 1 - this.at);
    return this.decode(this.bytes.subarray(start, end));
  }

  private global(): PickleGlobal {
    const name = `${this.line()}.${this.line()}`;
    const found = this.options.globals.get(name);
    if (!found) throw this.refused(`global ${printable(name)}`);
    return found;
  }

  private reduce(): void {
    const [callable, args] = this.popMany(2);
    if (!(callable instanceof PickleGlobal) || !callable.call)
      throw this.refused(`a call of ${kindOf(callable)}`);
    if (!isTuple(args)) throw this.damaged(`${callable.name} is called with ${kindOf(args)}, not a tuple`);
    this.stack.push(callable.call(args));
  }

  /** A state dict carries its modules' versions as an attribute, `_metadata`: nothing that a reader needs. */
  private build(): void {
    const state = this.pop();
    if (!(this.top() instanceof PickleDict) || !(state instanceof PickleDict)) {
      throw this.refused(`opcode BUILD on ${kindOf(this.top())}`);
    }
  }

  private setItems(items: readonly PickleValue[]): void {
    const dict = this.top();
    if (!(dict instanceof PickleDict)) throw this.damaged(`items are set on ${kindOf(dict)}, not a dict`);
    if (items.length % 2 !== 0) throw this.damaged("a key has no value");
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i];
      if (typeof key !== "string" && typeof key !== "number") throw this.damaged(`a key is ${kindOf(key)}`);
      if (dict.entries.has(key)) throw this.damaged(`a dict has the key ${printable(String(key))} twice`);
      dict.entries.set(key, items[i + 1]);
    }
  }

  private recall(index: number): PickleValue {
    const value = this.memo.get(index);
    if (value === undefined) throw this.damaged(`it refers to ${index}, which it has not stored`);
    return value;
  }

  private top(): PickleValue {
    if (this.stack.length <= (this.marks.at(-1) ?? 0)) throw this.damaged("a value is missing");
    return this.stack[this.stack.length - 1];
  }

  private pop(): PickleValue {
    const value = this.top();
    this.stack.length--;
    return value;
  }

  private popMany(count: number): readonly PickleValue[] {
    if (this.stack.length - count < (this.marks.at(-1) ?? 0)) throw this.damaged("a value is missing");
    return this.stack.splice(this.stack.length - count, count);
  }

  private popToMark(): readonly PickleValue[] {
    const mark = this.marks.pop();
    if (mark === undefined) throw this.damaged("a mark is missing");
    return this.stack.splice(mark);
  }

  private damaged(what: string): UserError {
    return this.options.fail(`${what} (at byte ${this.at} of the pickle)`, false);
  }

  private refused(what: string): UserError {
    return this.options.fail(`${what} (at byte ${this.at} of the pickle)`, true);
  }
}

function isTuple(value: PickleValue): value is readonly PickleValue[] {
  return Array.isArray(value);
}

/** A name from a file as one short line. */
export function printable(name: string): string {
  const short = name.length > 200 ? `${name.slice(0, 200)}...` : name;
  return /^[\x21-\x7e]*$/.test(short) && short !== "" ? short : JSON.stringify(short);
}
