const CAPACITY = 2048;

interface Row {
  calls: number;
  nanoseconds: number;
  flops: number;
  bytes: number;
}

/**
 * LASER_PROFILE=1: every dispatch runs in a pass of its own between two timestamps, and `report` prints one line a
 * kernel: calls, time, GFLOP/s, GB/s and share of the total. Passes of their own cost time, so the total is larger
 * than an unprofiled run's; the shares are what it is for.
 */
export class Profile {
  private readonly rows = new Map<string, Row>();
  private readonly queries: GPUQuerySet;
  private readonly resolved: GPUBuffer;
  private pending: { key: string; cost: { flops?: number; bytes?: number } | undefined }[] = [];
  private readonly readers: GPUBuffer[] = [];
  private inFlight: { reader: GPUBuffer; pending: Profile["pending"] } | null = null;
  private skipped = 0;

  constructor(private readonly device: GPUDevice) {
    this.queries = device.createQuerySet({ type: "timestamp", count: CAPACITY * 2 });
    this.resolved = device.createBuffer({
      size: CAPACITY * 16,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
  }

  /** Timestamps of the next dispatch, or undefined when this step has used up the query set. */
  begin(key: string, cost?: { flops?: number; bytes?: number }): GPUComputePassTimestampWrites | undefined {
    if (this.pending.length >= CAPACITY) {
      this.skipped++;
      return undefined;
    }
    const index = this.pending.length * 2;
    this.pending.push({ key, cost });
    return { querySet: this.queries, beginningOfPassWriteIndex: index, endOfPassWriteIndex: index + 1 };
  }

  /** Records the copy of this step's timestamps, at the end of the step. */
  resolve(encoder: GPUCommandEncoder): void {
    if (!this.pending.length) return;
    const count = this.pending.length * 2;
    const reader =
      this.readers.pop() ??
      this.device.createBuffer({
        size: CAPACITY * 16,
        usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
      });
    encoder.resolveQuerySet(this.queries, 0, count, this.resolved, 0);
    encoder.copyBufferToBuffer(this.resolved, 0, reader, 0, count * 8);
    this.inFlight = { reader, pending: this.pending };
    this.pending = [];
  }

  /** Adds the timestamps of the step just submitted to the table. */
  async collect(): Promise<void> {
    const flight = this.inFlight;
    if (!flight) return;
    this.inFlight = null;
    await flight.reader.mapAsync(GPUMapMode.READ);
    const times = new BigUint64Array(flight.reader.getMappedRange().slice(0));
    flight.reader.unmap();
    this.readers.push(flight.reader);
    flight.pending.forEach(({ key, cost }, i) => {
      const row = this.rows.get(key) ?? { calls: 0, nanoseconds: 0, flops: 0, bytes: 0 };
      row.calls++;
      row.nanoseconds += Number(times[2 * i + 1] - times[2 * i]);
      row.flops += cost?.flops ?? 0;
      row.bytes += cost?.bytes ?? 0;
      this.rows.set(key, row);
    });
  }

  /** The table, the slowest kernel first. */
  report(): string {
    const rows = [...this.rows].sort((a, b) => b[1].nanoseconds - a[1].nanoseconds);
    const total = rows.reduce((sum, [, row]) => sum + row.nanoseconds, 0);
    const lines = [
      `${"calls".padStart(8)} ${"ms".padStart(10)} ${"GFLOP/s".padStart(9)} ${"GB/s".padStart(8)} share  kernel`,
    ];
    for (const [key, row] of rows) {
      const seconds = row.nanoseconds / 1e9;
      const rate = (value: number) => (value && seconds ? (value / seconds / 1e9).toFixed(2) : "-");
      lines.push(
        `${String(row.calls).padStart(8)} ${(seconds * 1e3).toFixed(2).padStart(10)} ${rate(row.flops).padStart(9)} ` +
          `${rate(row.bytes).padStart(8)} ${((100 * row.nanoseconds) / (total || 1)).toFixed(1).padStart(4)}%  ${key}`,
      );
    }
    if (this.skipped) lines.push(`${this.skipped} dispatches past ${CAPACITY} in a step were not timed`);
    return lines.join("\n");
  }

  destroy(): void {
    this.queries.destroy();
    this.resolved.destroy();
    for (const reader of this.readers) reader.destroy();
  }
}
