import { SingleBar } from "cli-progress";
import type { Progress } from "../train/progress.ts";

/** Seconds between plain lines, where stderr is no terminal. */
const BETWEEN_LINES = 4;

/** A progress bar on a terminal, plain lines elsewhere (logs, CI). All on stderr: stdout is for results. */
export function terminalProgress(): Progress {
  return process.stderr.isTTY ? new BarProgress() : new LineProgress();
}

/** Seconds as people say them: 8 s, 3 min 20 s, 2 h 05 min. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
}

/** Units done a second, with three figures. */
function rateOf(done: number, seconds: number): string {
  const rate = seconds > 0 ? done / seconds : 0;
  return `${rate >= 100 ? rate.toFixed(0) : rate.toPrecision(3)}/s`;
}

/** The clock of one piece of work. A resumed piece starts above zero: its rate counts from there. */
class Work {
  readonly started = performance.now();
  done: number;
  text = "";

  constructor(
    readonly label: string,
    readonly total: number,
    readonly unit: string,
    readonly first: number,
  ) {
    this.done = first;
  }

  get seconds(): number {
    return (performance.now() - this.started) / 1000;
  }

  get rate(): string {
    return rateOf(this.done - this.first, this.seconds);
  }

  get left(): string {
    const since = this.done - this.first;
    return since > 0 ? duration((this.seconds / since) * (this.total - this.done)) : "?";
  }
}

class BarProgress implements Progress {
  private work: Work | null = null;
  private bar: SingleBar | null = null;
  private timer: NodeJS.Timeout | null = null;

  begin(label: string, total: number, unit: string, first = 0): void {
    this.end();
    if (total === 0) return;
    this.work = new Work(label, total, unit, first);
    this.bar = new SingleBar({
      format: "{label} {bar} {value}/{total} {unit}, {rate}, {left} left  {text}",
      barsize: 24,
      hideCursor: true,
      clearOnComplete: true,
      stopOnComplete: false,
      gracefulExit: false,
      stream: process.stderr,
    });
    this.bar.start(total, first, { label, unit, rate: "", left: "?", text: "" });
    // The clock goes on while kernels compile before the first step.
    this.timer = setInterval(() => {
      const { work } = this;
      if (work && work.done === work.first) this.update(work.done, `preparing, ${duration(work.seconds)}`);
    }, 1000);
    this.timer.unref();
  }

  update(done: number, text?: string): void {
    const { work, bar } = this;
    if (!work || !bar) return;
    if (text !== undefined || work.done !== done) work.text = text ?? "";
    work.done = done;
    bar.update(done, { rate: work.rate, left: work.left, text: work.text });
  }

  end(text?: string): void {
    const { work, bar } = this;
    if (this.timer) clearInterval(this.timer);
    this.work = null;
    this.bar = null;
    bar?.stop();
    if (work && text) console.error(`${work.label}: ${text}`);
  }

  line(text: string): void {
    const { work } = this;
    if (!work) console.error(text);
    else {
      // Above the bar: stop it, print, begin where it was.
      const { label, total, unit, done } = work;
      this.end();
      console.error(text);
      this.begin(label, total, unit, done);
      this.update(done, work.text);
    }
  }
}

class LineProgress implements Progress {
  private work: Work | null = null;
  private printed = 0;
  private lines = 0;
  private timer: NodeJS.Timeout | null = null;

  begin(label: string, total: number, unit: string, first = 0): void {
    this.end();
    this.work = new Work(label, total, unit, first);
    this.printed = performance.now();
    this.lines = 0;
    // Also where no update comes (kernels compile before the first step, which takes a while on some adapters).
    this.timer = setInterval(() => this.print(), BETWEEN_LINES * 1000);
    this.timer.unref();
  }

  update(done: number, text?: string): void {
    const { work } = this;
    if (!work) return;
    if (text !== undefined) work.text = text;
    work.done = done;
    if (done < work.total) this.print();
  }

  private print(): void {
    const { work } = this;
    // A timer may come a little early.
    if (!work || performance.now() - this.printed < BETWEEN_LINES * 1000 - 50) return;
    this.printed = performance.now();
    this.lines++;
    const { label, total, unit, done, text, rate, left } = work;
    const rest = text ? `, ${text}` : "";
    console.error(
      done === work.first
        ? `${label}: preparing, ${duration(work.seconds)} so far (kernels compile before the first step)`
        : `${label}: ${done}/${total} ${unit}, ${Math.floor((100 * done) / total)} %, ${rate}, ${left} left${rest}`,
    );
  }

  end(text?: string): void {
    const { work } = this;
    if (this.timer) clearInterval(this.timer);
    this.work = null;
    if (!work) return;
    const took = work.seconds;
    if (text || this.lines > 0 || took >= BETWEEN_LINES) {
      const done = `${work.done - work.first} ${work.unit} in ${duration(took)} (${work.rate})`;
      console.error(`${work.label}: ${done}${text ? `, ${text}` : ""}`);
    }
  }

  line(text: string): void {
    console.error(text);
  }
}
