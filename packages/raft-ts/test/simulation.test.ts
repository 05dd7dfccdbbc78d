import t from 'tap';
import { Simulation, type SimulationOptions } from './simulation.ts';

/** A failure names the seed; RAFT_SEED=n runs only that one. */
const only = process.env['RAFT_SEED'];
const seeds = Number(process.env['RAFT_SEEDS'] ?? 60);
const firstSeed = 1;

function run(options: SimulationOptions): Simulation {
  const simulation = new Simulation(options);
  try {
    simulation.run();
  } catch (error) {
    const which = `${options.members} members, RAFT_SEED=${options.seed}`;
    throw new Error(`${which}\n${simulation.peek()}`, { cause: error });
  }
  return simulation;
}

const worlds: Pick<SimulationOptions, 'members' | 'spares' | 'losses'>[] = [
  { members: 3 },
  { members: 5 },
  { members: 3, spares: 3 },
  { members: 3, spares: 3, losses: 'one' },
  { members: 4, spares: 2, losses: 'many' },
  { members: 3, losses: 'many' },
];

for (const { members, spares = 0, losses } of worlds) {
  const disks = losses === undefined ? '' : `, disks that forget (${losses} at a time)`;
  const which = spares ? `${members} of ${members + spares}, changing` : `${members} members`;
  t.test(`${which}${disks}, keep every promise of Raft`, async (t) => {
    const total: Record<string, number> = { leaders: 0, committed: 0, stuck: 0 };
    const add = (name: string, count: number) => {
      total[name] = (total[name] ?? 0) + count;
    };
    const range = only ? [Number(only)] : Array.from({ length: seeds }, (_, i) => firstSeed + i);
    for (const seed of range) {
      const steps = (members + spares) * 500;
      const options = {
        seed,
        members,
        steps,
        ...(spares && { spares }),
        ...(losses && { losses }),
      };
      const { checker, stats, isStuck } = run(options);
      add('leaders', checker.leaderCount);
      add('committed', checker.committed.length);
      add('stuck', isStuck ? 1 : 0);
      for (const [name, count] of Object.entries(stats)) add(name, count);
    }
    t.comment(`${range.length} seeds`, total);
    // the runs are worth something: things really happened
    if (only) return;
    const atLeast = (name: string, count: number, what: string) => {
      t.ok((total[name] ?? 0) > count, what);
    };
    atLeast('leaders', 1.2 * range.length, 'leaders changed');
    atLeast('crashes', range.length, 'members crashed');
    atLeast('failedSaves', range.length / 4, 'saves failed');
    atLeast('pauses', range.length, 'members stood still');
    atLeast('late', range.length, 'messages came very late');
    atLeast('snapshots', range.length, 'snapshots were taken from disks and leaders');
    atLeast('reads', range.length, 'reads were confirmed');
    if (losses ?? !spares) atLeast('losses', range.length / 4, 'disks lost what was acknowledged');
    if (spares) atLeast('changes', range.length / 2, 'members changed');
    if (spares) atLeast('joint', range.length / 6, 'members changed by joint memberships');
    atLeast('committed', 20 * range.length, 'entries were committed');
    t.ok((total['stuck'] ?? 0) <= range.length / 3, 'most found a way back');
  });
}

t.test('the checker notices a broken rule', async (t) => {
  const rules = [
    'answerBeforeSave',
    'forgetVote',
    'forgetTail',
    'staleReads',
    'skipJoint',
    'voteWithLoss',
  ] as const;
  for (const sabotage of rules) {
    let caught = 0;
    for (let seed = 1; caught === 0 && seed <= 1000; seed++) {
      try {
        const spares = sabotage === 'skipJoint' ? { spares: 3 } : {};
        new Simulation({ seed, members: 3, ...spares, steps: 1500, sabotage }).run();
      } catch {
        caught = seed;
      }
    }
    t.ok(caught > 0, `${sabotage}: caught by seed ${caught}`);
  }
});
