import t from 'tap';
import { Simulation, type SimulationOptions } from './simulation.ts';

/** A failure names the seed; RAFT_SEED=n runs only that one. */
const only = process.env['RAFT_SEED'];
const seeds = Number(process.env['RAFT_SEEDS'] ?? 100);
const firstSeed = 1;

function run(options: SimulationOptions): Simulation {
  const simulation = new Simulation(options);
  try {
    simulation.run();
  } catch (error) {
    throw new Error(`${options.members} members, RAFT_SEED=${options.seed}`, { cause: error });
  }
  return simulation;
}

for (const { members, spares } of [{ members: 3 }, { members: 5 }, { members: 3, spares: 3 }]) {
  const which = spares ? `${members} of ${members + spares}, changing,` : `${members} members`;
  t.test(`${which} keep every promise of Raft`, async (t) => {
    const total = {
      leaders: 0,
      crashes: 0,
      snapshots: 0,
      reads: 0,
      committed: 0,
      changes: 0,
      joint: 0,
      losses: 0,
    };
    const range = only ? [Number(only)] : Array.from({ length: seeds }, (_, i) => firstSeed + i);
    for (const seed of range) {
      const simulation = run({
        seed,
        members,
        ...(spares && { spares }),
        steps: (members + (spares ?? 0)) * 500,
      });
      total.leaders += simulation.checker.leaderCount;
      total.committed += simulation.checker.committed.length;
      total.crashes += simulation.stats.crashes;
      total.snapshots += simulation.stats.snapshots;
      total.reads += simulation.stats.reads;
      total.losses += simulation.stats.losses;
      total.changes += simulation.stats.changes;
      total.joint += simulation.stats.joint;
    }
    t.comment(`${range.length} seeds`, total);
    // the runs are worth something: things really happened
    if (only) return;
    t.ok(total.leaders > 2 * range.length, 'leaders changed');
    t.ok(total.crashes > range.length, 'members crashed');
    t.ok(total.snapshots > range.length, 'snapshots were taken from disks and leaders');
    t.ok(total.reads > range.length, 'reads were confirmed');
    if (!spares) t.ok(total.losses > range.length / 2, 'disks lost what was acknowledged');
    if (spares) t.ok(total.changes > range.length, 'members changed');
    if (spares) t.ok(total.joint > range.length / 4, 'members changed by joint memberships');
    t.ok(total.committed > 20 * range.length, 'entries were committed');
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
