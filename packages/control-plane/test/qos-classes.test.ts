import { changedClasses, defaultQosClasses } from '@stor/protocol';
import t from 'tap';
import { qosClassesOf, withClasses } from '../src/core/qos/qos-classes.ts';
import { qosClassesKey } from '../src/resources/keys.ts';
import { decodeQosClasses } from '../src/resources/qos-classes-record.ts';
import { encodeRecord } from '../src/resources/records.ts';
import { Rig } from './control-plane-rig.ts';

t.test('all nodes are told how classes of work share them, and of each change', async (t) => {
  const rig = await Rig.open(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const told = (index: number, name: string) =>
    rig.node(index).agent.qosClasses.find((each) => each.name === name);
  await rig.until(() => [0, 1, 2].every((index) => told(index, 'rebuild')?.weight === 50));
  t.same((await rig.during(client.listQosClasses({}))).classes, defaultQosClasses);
  const change = { name: 'rebuild', bps: 2 ** 20, weight: 7 };
  const changed = await rig.during(client.setQosClasses({ classes: [change] }));
  t.match(changed.classes[1], { name: 'rebuild', weight: 7, iops: 0, bps: 2 ** 20 });
  await rig.until(() => [0, 1, 2].every((index) => told(index, 'rebuild')?.bps === 2 ** 20));
  await rig.during(
    client.setQosClasses({
      classes: [
        { name: 'rebuild', bps: 0 },
        { name: 'scrub', weight: 1 },
      ],
    }),
  );
  await rig.until(() => [0, 1, 2].every((index) => told(index, 'rebuild')?.bps === 0));
  t.match(told(2, 'rebuild'), { weight: 7 }, 'what was not named stays');
  t.match(told(2, 'scrub'), { weight: 1 });
});

t.test('what no class can be is refused, and changes nothing', async (t) => {
  const rig = await Rig.open(1);
  t.teardown(() => rig.close());
  const client = rig.client();
  for (const change of [
    { name: 'reading' },
    { name: 'client', bps: 2 ** 20 },
    { name: 'client', iops: 5 },
    { name: 'scrub', weight: 20_000 },
    { name: 'scrub', bps: 1 },
    { name: 'scrub', iops: -1 },
  ]) {
    const classes = [{ name: 'rebuild', weight: 3 }, change];
    const refused = rig.during(client.setQosClasses({ classes }));
    await t.rejects(refused, { code: 'INVALID_ARGUMENT' }, JSON.stringify(change));
  }
  t.same((await rig.during(client.listQosClasses({}))).classes, defaultQosClasses);
});

t.test('classes of a later version are kept', async (t) => {
  const classes = { tiering: { weight: 3, iops: 1, bps: 2, more: 4 } };
  const withLater = decodeQosClasses(qosClassesKey, encodeRecord({ classes, later: true }));
  const changed = withClasses(
    withLater,
    changedClasses(defaultQosClasses, [{ name: 'scrub', weight: 9 }]),
  );
  t.match(changed, { later: true, classes: { ...classes, scrub: { weight: 9 } } });
  const state = { qosClasses: { value: changed, modRevision: 1 } };
  t.same(
    qosClassesOf(state).map(({ name, weight }) => [name, weight]),
    [
      ['client', 100],
      ['rebuild', 50],
      ['resync', 50],
      ['scrub', 9],
      ['backup', 20],
    ],
    'and not used',
  );
});
