import { SeedRun, type SeedOptions, type SeedReport } from './run-seed.ts';

export type WorkerMessage =
  | { kind: 'report'; report: SeedReport }
  | { kind: 'ready' }
  /** the run comes to the end of its turns */
  | { kind: 'alive' };

/** Of real time (ms). */
const aliveEveryMs = 5_000;

/** A child process that runs one seed after another, as it is told. */
process.on('message', (options: SeedOptions) => {
  new SeedRun(options).run().then(
    (report) => process.send?.({ kind: 'report', report } satisfies WorkerMessage),
    (error: unknown) => {
      process.stderr.write(`${String(error)}\n`);
      process.exit(2);
    },
  );
});
// a timer of the real event loop: it waits for nobody but a process that spins
setInterval(() => process.send?.({ kind: 'alive' } satisfies WorkerMessage), aliveEveryMs);
process.on('disconnect', () => process.exit(0));
process.send?.({ kind: 'ready' } satisfies WorkerMessage);
