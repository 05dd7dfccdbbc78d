import t from 'tap';

import { FaultScenario, type ScenarioOptions } from '@stor/replicator/testing';

/** Seeds of one run of the suite; set STOR_SEEDS to try more, STOR_FIRST_SEED to repeat one. */
const seeds = Number(process.env['STOR_SEEDS'] ?? 8);
const firstSeed = Number(process.env['STOR_FIRST_SEED'] ?? 1);

async function problemsOf(options: ScenarioOptions): Promise<string[]> {
  const { problems } = await new FaultScenario(options).run();
  return problems.map((problem) => `seed ${options.seed}: ${problem}`);
}

t.test('histories stay linearizable and replicas become equal under any faults', async (t) => {
  const problems: string[] = [];
  let acknowledged = 0;
  let reads = 0;
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const scenario = new FaultScenario({ seed, diskless: seed % 3 === 0 });
    const result = await scenario.run();
    acknowledged += result.acknowledgedWrites;
    reads += result.reads;
    problems.push(...result.problems.map((problem) => `seed ${seed}: ${problem}`));
  }
  t.same(problems, []);
  t.comment(`${acknowledged} acknowledged writes, ${reads} reads`);
  t.ok(acknowledged > seeds * 50, 'enough was written to mean something');
});

t.test('the same for a volume of several segments', async (t) => {
  const problems: string[] = [];
  let acknowledged = 0;
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const result = await new FaultScenario({ seed, segments: true }).run();
    acknowledged += result.acknowledgedWrites;
    problems.push(...result.problems.map((problem) => `seed ${seed}: ${problem}`));
  }
  t.same(problems, []);
  t.ok(acknowledged > seeds * 30, `${acknowledged} acknowledged writes`);
});

t.test('the same while replicas move and the policy changes', async (t) => {
  const problems: string[] = [];
  const counts: Record<string, number> = {};
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    const { problems: found, faults } = await new FaultScenario({ seed, changes: true }).run();
    problems.push(...found.map((problem) => `seed ${seed}: ${problem}`));
    for (const [what, times] of Object.entries(faults)) counts[what] = (counts[what] ?? 0) + times;
  }
  t.same(problems, []);
  for (const what of ['add', 'leave', 'remove', 'policy']) t.ok((counts[what] ?? 0) > 0, what);
});

t.test('two primaries never both serve when one is cut off and replaced', async (t) => {
  for (let seed = 1; seed <= 4; seed++) {
    t.same(await problemsOf({ seed, splitsOnly: true }), []);
  }
});
