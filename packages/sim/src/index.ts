export * from './faults/fault-plan.ts';
export * from './run/absence-run.ts';
export * from './run/run-seed.ts';
export * from './kv/kv-world.ts';
