// Whatever dockerd does, and whenever the agent is killed: a volume is mounted as long as some container
// has it, and no longer.
import fc from 'fast-check';
import t from 'tap';
import { repeatMs } from '../src/core/limits.ts';
import { PluginRig } from './plugin-rig.ts';

const volumes = ['db', 'web'] as const;
const callers = ['c1', 'c2'] as const;

interface Held {
  volume: (typeof volumes)[number];
  caller: (typeof callers)[number];
}

/** What dockerd believes: how often each container has a volume mounted. */
class Model {
  readonly #counts = new Map<string, number>();

  add({ volume, caller }: Held, change: number): void {
    const key = `${volume}/${caller}`;
    this.#counts.set(key, Math.max(0, (this.#counts.get(key) ?? 0) + change));
  }

  isMounted(volume: string): boolean {
    return [...this.#counts].some(([key, count]) => key.startsWith(`${volume}/`) && count > 0);
  }

  counts(): string[] {
    const held = [...this.#counts].filter(([, count]) => count > 0);
    return held.map(([key, count]) => `${key} ${count}`).sort();
  }

  clear(): void {
    this.#counts.clear();
  }
}

type Step =
  | ({ type: 'mount' | 'unmount'; answer: 'arrives' | 'is-lost' | 'is-lost-twice' } & Held)
  | ({ type: 'mount-given-up' | 'mount-lost-and-unmounted' | 'unmount-given-up' } & Held)
  | ({ type: 'mount-cut-by-restart' } & Held)
  | ({ type: 'mount-cut-by-kill'; change: number } & Held)
  | ({ type: 'mount-fails' } & Held)
  | { type: 'kill' | 'restart' | 'reboot' | 'time' };

const held = {
  volume: fc.constantFrom('db' as const, 'db' as const, 'web' as const),
  caller: fc.constantFrom(...callers),
};
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      type: fc.constantFrom('mount', 'unmount'),
      answer: fc.constantFrom('arrives', 'arrives', 'is-lost', 'is-lost-twice'),
      ...held,
    }),
  },
  fc.record({
    type: fc.constantFrom('mount-given-up', 'mount-lost-and-unmounted', 'unmount-given-up'),
    ...held,
  }),
  fc.record({ type: fc.constant('mount-cut-by-restart'), ...held }),
  fc.record({
    type: fc.constant('mount-cut-by-kill'),
    // before the new table has its name; from then on it is counted
    change: fc.integer({ min: 1, max: 5 }),
    ...held,
  }),
  fc.record({ type: fc.constant('mount-fails'), ...held }),
  fc.record({ type: fc.constantFrom('kill', 'restart', 'reboot', 'time') }),
);

async function run(rig: PluginRig, model: Model, step: Step): Promise<void> {
  if (!('volume' in step)) {
    if (step.type === 'reboot') model.clear();
    if (step.type === 'time') return rig.advance(2 * repeatMs, repeatMs);
    return rig[step.type]();
  }
  const body = { Name: step.volume, ID: step.caller };
  if (step.type === 'mount' || step.type === 'unmount') {
    const call = step.type === 'mount' ? 'Mount' : 'Unmount';
    const losses = { arrives: 0, 'is-lost': 1, 'is-lost-twice': 2 }[step.answer];
    for (let lost = 0; lost < losses; lost++) await rig.lose(call, body);
    const error = await rig.error(call, body);
    if (error !== '') throw new Error(error);
    model.add(step, call === 'Mount' ? 1 : -1);
    return;
  }
  if (step.type === 'mount-fails') {
    rig.files.hook = (operation) => (operation === 'create' ? 'ENOSPC' : null);
    const error = await rig.error('Mount', body);
    rig.files.hook = () => null;
    if (!error.includes('ENOSPC')) throw new Error(`it did not fail: ${error}`);
    return;
  }
  if (step.type === 'mount-cut-by-kill') {
    if (await rig.killWithin(step.change, 'Mount', body)) model.add(step, 1);
    return;
  }
  if (step.type === 'unmount-given-up') {
    await rig.lose('Unmount', body);
    model.add(step, -1);
    return rig.advance(repeatMs, repeatMs);
  }
  await rig.lose('Mount', body);
  if (step.type === 'mount-lost-and-unmounted') {
    // as dockerd does after a mount that failed
    await rig.send('Unmount', body);
    return;
  }
  if (step.type === 'mount-given-up') return rig.advance(repeatMs, repeatMs);
  await rig.restart();
  const error = await rig.error('Mount', body);
  if (error !== '') throw new Error(error);
  model.add(step, 1);
}

t.test('mounts are those that containers have', async (t) => {
  const runs = Number(process.env['STOR_RUNS'] ?? 200);
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30, size: 'max' }), async (steps) => {
      const rig = await PluginRig.open();
      for (const volume of volumes) rig.cluster.volumes.add(volume);
      const model = new Model();
      for (const [at, each] of steps.entries()) {
        await run(rig, model, each);
        await rig.advance(0);
        if (rig.counts().join() !== model.counts().join()) {
          throw new Error(`${rig.counts().join()}, not ${model.counts().join()}, after step ${at}`);
        }
        for (const volume of volumes) {
          const says = rig.isMounted(volume);
          if (says !== model.isMounted(volume)) {
            throw new Error(`${volume} is ${says ? '' : 'not '}mounted after step ${at}`);
          }
        }
      }
      await rig.stop();
    }),
    { numRuns: runs },
  );
  t.pass(`${runs} runs`);
});
