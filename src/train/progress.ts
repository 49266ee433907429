/** Where long work reports to: a bar on a terminal, plain lines elsewhere, nothing in tests. */
export interface Progress {
  /** Begins a piece of work of `total` units, of which `first` are done already (a resumed one). */
  begin(label: string, total: number, unit: string, first?: number): void;
  /** Units done so far, and a short text beside the bar. */
  update(done: number, text?: string): void;
  /** Ends the piece of work. */
  end(text?: string): void;
  /** A line of its own. */
  line(text: string): void;
}

/** Reports nothing. */
export const SILENT: Progress = { begin() {}, update() {}, end() {}, line() {} };
