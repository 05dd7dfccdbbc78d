import { runSuite, type Suite } from '../../harness/run-suite.ts';
import type { NbdStage } from './stage.ts';

const bounds: Suite[] = [
  {
    name: 'limits: half-open, half-way, silent and stalled clients',
    files: [
      'packages/node-agent/test/nbd-bounds.test.ts',
      'packages/node-agent/test/nbd-tls.test.ts',
    ],
  },
  {
    name: 'every rule of the server, over real sockets',
    files: [
      'packages/node-agent/test/nbd-server.test.ts',
      'packages/node-agent/test/nbd-extended.test.ts',
      'packages/node-agent/test/nbd-sparse.test.ts',
    ],
  },
];

const stop: Suite[] = [
  {
    name: 'SIGTERM to a real agent under qemu-img and our client: no error',
    files: ['test/e2e/orderly-stop.test.ts'],
  },
];

const examples: Suite[] = [
  {
    name: 'examples of the README, docs/nbd.md and docs/operating/tls.md',
    files: ['test/e2e/nbd-examples.test.ts'],
  },
];

function partOf(list: readonly Suite[]): (stage: NbdStage) => Promise<void> {
  return async ({ report }) => {
    for (const suite of list) await runSuite(report, suite);
  };
}

export const tests = { bounds: partOf(bounds), stop: partOf(stop), examples: partOf(examples) };

/** Both fuzzers, one after the other, each for half of the time, with seeds that were not run before. */
export async function fuzz({ report, fuzzMinutes }: NbdStage): Promise<void> {
  const firstSeed = 1 + Math.floor(Math.random() * 2 ** 30);
  const minutes = String(fuzzMinutes / 2);
  const env = { STOR_MINUTES: minutes, STOR_FIRST_SEED: String(firstSeed) };
  for (const [name, file] of [
    ['server', 'packages/node-agent/test/nbd-fuzz.test.ts'],
    ['client', 'packages/nbd-client-js/test/client-fuzz.test.ts'],
  ] as const) {
    const said = await runSuite(report, {
      name: `fuzzer of the ${name}: no crash, leak, hang, nor a wrong byte`,
      files: [file],
      env,
    });
    const cases = Number(/fuzz: (\d+) conversations/.exec(said)?.[1] ?? 0);
    const from = `from seed ${firstSeed}, ${minutes} min`;
    report.add(`fuzzer of the ${name}: conversations`, `${cases} ${from}`, 'counted', cases > 0);
  }
}
