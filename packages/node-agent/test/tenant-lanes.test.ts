import type { AttachmentGrant } from '@stor/protocol';
import { FakeClock } from '@stor/runtime/testing';
import fc from 'fast-check';
import t from 'tap';
import { TenantLanes } from '../src/core/lanes/tenant-lanes.ts';
import type { LaneMethods } from '../src/lane/lane-protocol.ts';
import { NodeLanes } from '../src/node-lanes.ts';
import { LaneQos } from '../src/qos/lane-qos.ts';
import { MemoryBlockDevice } from '../src/testing/memory-block-device.ts';

t.test('lanes know how many there are, whatever is attached in whatever order', async (t) => {
  const step = fc.record({
    volume: fc.constantFrom('a', 'b', 'c', 'd'),
    lane: fc.nat({ max: 2 }),
    tenant: fc.constantFrom('x', 'y', null),
    version: fc.nat({ max: 3 }),
    isAttached: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const lanes = new TenantLanes();
      const told = new Map<string, number>();
      const model = new Map<string, { lane: number; tenant: string | null; version: number }>();
      for (const { volume, lane, tenant, version, isAttached } of steps) {
        const spread = isAttached
          ? lanes.attached(volume, { lane, tenant, resourceVersion: version })
          : lanes.detached(volume);
        for (const { tenant: name, lanes: all } of spread) {
          for (const each of all) told.set(`${name} ${each}`, all.length);
        }
        if (!isAttached) model.delete(volume);
        else if (version >= (model.get(volume)?.version ?? 0)) {
          model.set(volume, { lane, tenant, version });
        }
        for (const name of ['x', 'y']) {
          const used = [...model.values()].filter((each) => each.tenant === name);
          const wanted = new Set(used.map((each) => each.lane));
          for (const each of wanted) {
            if (told.get(`${name} ${each}`) !== wanted.size) return false;
          }
        }
      }
      return true;
    }),
  );
  t.pass();
});

t.test('a lane gives its part away before another one serves', async (t) => {
  const log: string[] = [];
  const lane = (at: number) => ({
    methods: {
      spreadTenant: async (name: string, lanes: number) => {
        await Promise.resolve();
        log.push(`lane ${at}: ${name} on ${lanes}`);
      },
      attach: async ({ name }: AttachmentGrant) => void log.push(`lane ${at} attaches ${name}`),
      updateVolume: async () => void log.push(`lane ${at} is updated`),
    } as unknown as LaneMethods,
    address: { path: `lane-${at}` },
  });
  const lanes = new NodeLanes({
    nodeId: 'n-1',
    lanes: [lane(0), lane(1)],
    clock: new FakeClock(),
  });
  const grant = (name: string, tenant: string | null): AttachmentGrant =>
    ({
      volumeId: `v-${name}`,
      name,
      epoch: 1,
      resourceVersion: 1,
      segments: [],
      qos: tenant === null ? {} : { tenant: { name: tenant, share: { iops: 100 } } },
    }) as unknown as AttachmentGrant;
  const since = (): string[] => log.splice(0);
  await lanes.attach(grant('a', 'acme'));
  t.same(since(), ['lane 0: acme on 1', 'lane 0 attaches a']);
  await lanes.attach(grant('b', null));
  t.same(since(), ['lane 1 attaches b']);
  await lanes.updateVolume({ ...grant('b', 'acme'), resourceVersion: 2 });
  t.same(since(), ['lane 0: acme on 2', 'lane 1: acme on 2', 'lane 1 is updated']);
  await lanes.updateVolume({ ...grant('b', 'acme'), resourceVersion: 3 });
  t.same(since(), ['lane 1 is updated'], 'nothing new');
  lanes.released('v-b', 1);
  await Promise.resolve().then(() => Promise.resolve());
  t.same(since(), ['lane 0: acme on 1']);
  t.equal((await lanes.granted(1, { ...grant('b', 'acme'), epoch: 2 })).name, 'b');
  t.same(since(), ['lane 0: acme on 2', 'lane 1: acme on 2']);
});

t.test("a lane has its part of the node's share, from one moment to the next", async (t) => {
  const clock = new FakeClock();
  const qos = new LaneQos(clock);
  const tenant = { name: 'acme', share: { iops: 1_000 } };
  const volume = { volumeId: 'v', name: 'v', qos: { tenant }, resourceVersion: 1 };
  // before any volume of it is here
  qos.spreadTenant('acme', 4);
  const opened = qos.open(volume);
  const device = opened.device(new MemoryBlockDevice(2 ** 20));
  let count = 0;
  const again = (): void => {
    device.write({
      ...{ offset: 0, length: 4_096, bytes: Buffer.alloc(4_096), start: 0, retained: true },
      ...{ fua: false, noHole: false },
      done: () => {
        count += 1;
        clock.endOfTurn(again);
      },
    });
  };
  again();
  const within = (ms: number): number => {
    const before = count;
    clock.advance(ms);
    return count - before;
  };
  within(1_000);
  const quarter = within(4_000);
  t.ok(Math.abs(quarter - 1_000) <= 20, `${quarter} with a quarter`);
  qos.spreadTenant('acme', 1);
  const all = within(4_000);
  t.ok(Math.abs(all - 4_000) <= 200, `${all} with all`);
  qos.spreadTenant('other', 7);
  opened.update({ tenant: { name: 'acme', share: { iops: 500 } } }, 2);
  qos.spreadTenant('acme', 5);
  within(1_000);
  const fifth = within(4_000);
  t.ok(Math.abs(fifth - 400) <= 20, `${fifth} with a fifth of half`);
  opened.close();
});
