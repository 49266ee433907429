// @ts-check
/**
 * The parent's end of the protocol (serve.js): an engine in a process of its own, so that two builds of Dawn never meet,
 * and a peer that crashes or hangs costs one cell of the table.
 */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";

/** How a call that was given up begins its message. */
export const NO_ANSWER = "no answer";

export class EngineProcess {
  /** @type {import("node:child_process").ChildProcess | null} */
  #child = null;
  /** @type {{ resolve: (value: never) => void, reject: (error: Error) => void } | null} */
  #waiting = null;
  #id = 0;
  /** The last the process wrote to stderr: the reason, when it crashes. */
  #said = "";

  /**
   * @param {string} name the file under engines/, without .js
   * @param {{ adapter?: string }} options
   * @param {Record<string, string>} environment added to this process's
   * @param {number} limitSeconds a call that takes longer is given up, and its process ended
   */
  constructor(name, options, environment, limitSeconds) {
    this.name = name;
    this.options = options;
    this.environment = environment;
    this.limitSeconds = limitSeconds;
  }

  /** Starts the process and opens the engine, unless that was done. @returns {Promise<import("./serve.js").About | null>} */
  async start() {
    if (this.#child) return null;
    const file = fileURLToPath(new URL(`engines/${this.name}.js`, import.meta.url));
    const child = fork(file, [], {
      serialization: "advanced",
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      env: { ...process.env, ...this.environment },
    });
    this.#child = child;
    this.#said = "";
    child.stderr?.on("data", (piece) => {
      this.#said = (this.#said + piece).slice(-4000);
    });
    child.on("message", (/** @type {{ id: number, result?: never, error?: string }} */ message) => {
      if (message.id !== this.#id || !this.#waiting) return;
      const { resolve, reject } = this.#waiting;
      this.#waiting = null;
      if (message.error === undefined) resolve(/** @type {never} */ (message.result));
      else reject(new Error(message.error));
    });
    child.on("close", (code, signal) => {
      // One that was killed may end when another is at work in its place.
      if (this.#child !== child) return;
      this.#child = null;
      const last = this.#said.trim().split("\n").at(-1) ?? "";
      this.#waiting?.reject(new Error(`the process ended (${signal ?? `exit code ${code}`}) ${last}`.trim()));
      this.#waiting = null;
    });
    return this.call("open", this.options);
  }

  /** @param {keyof import("./serve.js").Engine} method @param {unknown[]} args @returns {Promise<any>} */
  call(method, ...args) {
    const child = this.#child;
    if (!child) return Promise.reject(new Error("the process is not running"));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting?.reject(new Error(`${NO_ANSWER} to ${method} in ${this.limitSeconds} s`));
        this.#waiting = null;
        this.#child = null;
        child.kill("SIGKILL");
      }, 1000 * this.limitSeconds);
      const settle = (/** @type {(value: any) => void} */ how) => (/** @type {any} */ value) => {
        clearTimeout(timer);
        how(value);
      };
      this.#waiting = { resolve: settle(resolve), reject: settle(reject) };
      child.send({ id: ++this.#id, method, args });
    });
  }

  /** Ends the process at once: it may be deep in a call that never comes back. */
  kill() {
    this.#child?.kill("SIGKILL");
    this.#child = null;
  }

  /** Ends the engine and waits for its process. */
  async stop() {
    const child = this.#child;
    if (!child) return;
    const ended = new Promise((resolve) => child.once("close", resolve));
    const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
    await this.call("close").catch(() => {});
    await ended;
    clearTimeout(timer);
  }
}
