/**
 * Runs `work` once and counts what it sends to the GPU: dispatches, submits to the queue, and the floating-point operations
 * and bytes that the ops state for their kernels (recomputation counts: it is done).
 */
export async function account(gpu, work) {
  const counts = { dispatches: 0, submits: 0, flops: 0, bytes: 0 };
  const { queue } = gpu.device;
  const { submit } = queue;
  const { step } = gpu;
  queue.submit = function (...commands) {
    counts.submits++;
    return submit.apply(this, commands);
  };
  gpu.step = (label) => {
    const made = step.call(gpu, label);
    const run = made.run.bind(made);
    made.run = (kernel, dispatch) => {
      const before = made.dispatches;
      run(kernel, dispatch);
      counts.dispatches += made.dispatches - before;
      counts.flops += dispatch.cost?.flops ?? 0;
      counts.bytes += dispatch.cost?.bytes ?? 0;
    };
    return made;
  };
  try {
    await work();
  } finally {
    delete gpu.step;
    delete queue.submit;
  }
  return counts;
}

/** The account of one recording submitted as a step. */
export function accountOf(gpu, record) {
  return account(gpu, () => {
    const step = gpu.step("account");
    record(step);
    return step.submit();
  });
}
