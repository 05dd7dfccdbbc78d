import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';

import { SeedRun, type Fault } from '../src/index.ts';

/** What once broke a promise: the seed, with its options and the faults that were needed. */
interface Scenario {
  about: string;
  seed: number;
  minutes: number;
  world?: 'agents' | 'lanes';
  faults?: Fault[];
}

const folder = new URL('../scenarios/', import.meta.url);

for (const file of readdirSync(folder).filter((name) => name.endsWith('.json'))) {
  const { about, ...options } = JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as Scenario;
  t.test(`${file}: ${about}`, async (t) => {
    const { violations } = await new SeedRun(options).run();
    t.strictSame(violations, []);
  });
}
