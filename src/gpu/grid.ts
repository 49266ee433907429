/** WebGPU guarantees this many workgroups along one axis. */
const MOST_PER_AXIS = 65535;

/**
 * Spreads `count` workgroups over x and y. The kernel takes `group = wid.y * num_workgroups.x + wid.x` and returns
 * when `group >= count`.
 */
export function gridOf(count: number): [number, number, number] {
  if (count <= MOST_PER_AXIS) return [count, 1, 1];
  const y = Math.ceil(count / MOST_PER_AXIS);
  return [Math.ceil(count / y), y, 1];
}
