/**
 * Every numeric tolerance of the tests and of `laser compare` comes from src/eval/tolerances.ts, where each has its
 * reason. This file only passes it on, so that tests have one short import.
 */
export * from "../src/eval/tolerances.ts";
