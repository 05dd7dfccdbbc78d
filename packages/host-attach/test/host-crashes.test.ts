// Orders on a host whose agent is killed between any two steps, beside the fake, which never is.
import { isDeepStrictEqual } from 'node:util';
import { StorError } from '@stor/protocol';
import fc from 'fast-check';
import t from 'tap';
import type { DeviceUser, HostDevice, HostVolumes } from '../src/index.ts';
import { FakeHostVolumes, MemoryVolumes } from '../src/testing/index.ts';
import { HostWorld, type HostPorts } from './support/host-world.ts';

const signal = new AbortController().signal;
const names = ['a', 'b'] as const;
const gib = 2 ** 30;

type Order =
  | { type: 'attach' | 'detach'; volume: string; user: DeviceUser; force: boolean }
  | { type: 'mount'; volume: string; user: DeviceUser; target: string }
  | { type: 'unmount'; user: DeviceUser; target: string; keep: boolean }
  | { type: 'grow'; volume: string }
  | { type: 'reboot' };

const volume = fc.constantFrom(...names);
const user = fc.constantFrom<DeviceUser>('storctl', 'docker');
const target = fc.constantFrom('/mnt/1', '/mnt/2');
const order: fc.Arbitrary<Order> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constantFrom('attach' as const, 'detach' as const),
      ...{ volume, user },
      force: fc.boolean(),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ type: fc.constant('mount' as const), volume, user, target }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant('unmount' as const),
      ...{ user, target },
      keep: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ type: fc.constant('grow' as const), volume }) },
  { weight: 1, arbitrary: fc.constant({ type: 'reboot' as const }) },
);

/** An agent's life: after so many steps nothing that it does has any effect. */
class Life {
  left: number;
  isOver = false;

  constructor(steps: number) {
    this.left = steps;
  }

  step(): void {
    this.left -= 1;
    if (this.left < 0) this.isOver = true;
    if (this.isOver) throw new StorError('INTERNAL', 'the agent was killed');
  }
}

/** Each call is a step before it and one after it. */
function mortal<T extends object>(port: T, life: Life): T {
  return new Proxy(port, {
    get: (at, name) => {
      const value: unknown = Reflect.get(at, name, at);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]): unknown => {
        life.step();
        const result: unknown = value.apply(at, args);
        if (!(result instanceof Promise)) return result;
        return result.then((answer: unknown) => {
          life.step();
          return answer;
        });
      };
    },
  });
}

function mortalPorts(ports: HostPorts, life: Life): HostPorts {
  return {
    volumes: mortal(ports.volumes, life),
    processes: mortal(ports.processes, life),
    tools: mortal(ports.tools, life),
    allocation: mortal(ports.allocation, life),
    files: mortal(ports.files, life),
  };
}

function newVolumes(): MemoryVolumes {
  const volumes = new MemoryVolumes();
  volumes.addNode('n1');
  for (const name of names) volumes.add(name, { sizeBytes: gib });
  return volumes;
}

/** The error's code; '' when there was none. */
async function carryOut(host: HostVolumes, volumes: MemoryVolumes, asked: Order): Promise<string> {
  try {
    switch (asked.type) {
      case 'attach':
        await host.attach(asked, signal);
        break;
      case 'detach':
        await host.detach(asked, signal);
        break;
      case 'mount':
        await host.mount(asked, signal);
        break;
      case 'unmount':
        await host.unmount({ ...asked, keepAttached: asked.keep }, signal);
        break;
      case 'grow':
        volumes.resize(asked.volume, volumes.find(asked.volume).spec.sizeBytes + gib);
        await host.grow(asked.volume, signal);
        break;
      case 'reboot':
        break;
    }
    return '';
  } catch (error) {
    return StorError.from(error).code;
  }
}

const byName = (one: { volume: string }, other: { volume: string }): number =>
  one.volume < other.volume ? -1 : 1;

/** Without what differs from one try to the next. */
function shown(devices: readonly HostDevice[]): object[] {
  return [...devices]
    .sort(byName)
    .map(({ volume: name, sizeBytes, readOnly, users, mounts, failure }) => ({
      ...{ name, sizeBytes, readOnly, failure, users: [...users].sort() },
      mounts: mounts
        .map(({ target: at, user: by, fileSystem }) => `${at} ${by} ${fileSystem}`)
        .sort(),
    }));
}

class Run {
  readonly world = new HostWorld(newVolumes(), 'n1');
  readonly model: { volumes: MemoryVolumes; host: FakeHostVolumes };
  #life = new Life(Infinity);
  #host: HostVolumes | null = null;

  constructor() {
    const volumes = newVolumes();
    const [nodeId = ''] = volumes.nodeIds();
    this.model = { volumes, host: new FakeHostVolumes(volumes, nodeId) };
  }

  async order(asked: Order, crashAfter: number): Promise<void> {
    if (asked.type === 'reboot') {
      this.#life.isOver = true;
      this.world.reboot();
      await this.model.host.reboot();
      await this.#restart();
      return;
    }
    const host = this.#host ?? (await this.#restart());
    this.#life.left = crashAfter;
    const answer = await carryOut(host, this.world.volumes, asked);
    const wasKilled = this.#life.isOver;
    this.#life.left = Infinity;
    if (!wasKilled) {
      const expected = await carryOut(this.model.host, this.model.volumes, asked);
      if (answer !== expected) throw new Error(`${answer || 'done'}, not ${expected || 'done'}`);
      return;
    }
    const now = await this.#restart();
    // a file system that was made stays, whatever becomes of the mount
    for (const name of names) {
      const [made, known] = [this.world.volumes.content(name), this.model.volumes.content(name)];
      if (known.fileSystem === null) Object.assign(known, made);
    }
    // it has happened, or it has not: never a part of it
    const isUndone = asked.type !== 'grow' && this.#isLikeModel(now);
    if (!isUndone) await carryOut(this.model.host, this.model.volumes, asked);
  }

  async #restart(): Promise<HostVolumes> {
    this.#life = new Life(Infinity);
    const host = await this.world.start(mortalPorts(this.world.ports(), this.#life));
    await host.look();
    this.#host = host;
    return host;
  }

  #isLikeModel(host: HostVolumes): boolean {
    return isDeepStrictEqual(shown(host.list()), shown(this.model.host.list()));
  }

  check(): void {
    const { world, model } = this;
    const devices = this.#host?.list() ?? [];
    const same = (what: string, found: unknown, expected: unknown): void => {
      if (isDeepStrictEqual(found, expected)) return;
      throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`);
    };
    same('devices', shown(devices), shown(model.host.list()));
    for (const name of names) {
      const isDevice = devices.some((device) => device.volume === name);
      const published = world.volumes.publications(name).length;
      same(`publications of ${name}`, published, isDevice ? 1 : 0);
      same(`content of ${name}`, world.volumes.content(name), model.volumes.content(name));
    }
    same('processes', world.processes.list().length, devices.length);
    const targets = devices.flatMap(({ mounts }) => mounts.map((mount) => mount.target));
    same('mounts', world.tools.table.map((entry) => entry.target).sort(), targets.sort());
  }
}

t.test('an order that was cut off by a kill has happened, or it has not', async () => {
  const step = fc.record({
    asked: order,
    // most orders take 20 to 60 steps
    crashAfter: fc.oneof(fc.constant(Infinity), fc.integer({ min: 0, max: 70 })),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), async (steps) => {
      const run = new Run();
      for (const { asked, crashAfter } of steps) {
        await run.order(asked, crashAfter);
        run.check();
      }
    }),
    { numRuns: Number(process.env['STOR_RUNS'] ?? 300) },
  );
});
