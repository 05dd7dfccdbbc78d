import { StorError } from '@stor/protocol';
import t from 'tap';
import { Rig } from './control-plane-rig.ts';

const gib = 2 ** 30;
const create = { sizeBytes: gib, labels: {} };
const asked = { segment: 0, replicas: 0, sizeBytes: 0, labels: {}, diskTag: '' };

async function said(run: Promise<unknown>): Promise<string> {
  try {
    await run;
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

t.test('rules are kept from the order to the explanation', async (t) => {
  const rig = await Rig.open(4);
  t.teardown(() => rig.close());
  const client = rig.client();
  const { nodes } = await client.listNodes({});
  const [n1 = '', n2 = '', n3 = '', n4 = ''] = nodes.map(({ metadata }) => metadata.name).sort();
  const label = (name: string, zone: string) =>
    client.labelNode({ name, set: { zone }, remove: [] });
  await Promise.all([label(n1, 'a'), label(n2, 'a'), label(n3, 'b')]);
  const rules = { required: ['zone'] };
  t.match(
    await said(client.createVolume({ ...create, name: 'db', replicas: 3, placement: rules })),
    /^FAILED_PRECONDITION: 3 replicas must be apart by zone, and the nodes that qualify allow 2: zone a .*; .* has no label zone, by which replicas must be apart$/,
  );
  t.match(
    await said(
      client.createVolume({ ...create, name: 'db', replicas: 1, placement: { required: ['a b'] } }),
    ),
    /^INVALID_ARGUMENT: label key "a b" is not valid/,
  );
  t.match(
    await said(client.createVolume({ ...create, name: 'db', replicas: 1, onNode: 'nobody' })),
    /^NOT_FOUND/,
  );
  const made = await client.createVolume({
    ...{ ...create, name: 'db', replicas: 2, placement: rules, onNode: n2 },
  });
  const on = made.status.replicas.map(({ node }) => node).sort();
  t.same(on, [n2, n3]);
  t.match(made.spec.placement, rules);
  t.match(
    await said(client.moveReplica({ name: 'db', replica: n3, node: n1, disk: '' })),
    new RegExp(
      `^FAILED_PRECONDITION: node ${n1} cannot take a replica: it is in zone a, where node ${n2} has one`,
    ),
  );
  t.match(
    await said(client.updateVolume({ name: 'db', replicas: 3 })),
    /^FAILED_PRECONDITION: volume db cannot have 3 replicas: .* is in zone a, where/,
  );
  const plan = await client.explainPlacement({ ...asked, volume: 'db', replicas: 3 });
  t.match(plan, { volume: 'db', replicas: 1, placed: [n2, n3], candidates: [] });
  t.match(plan.problem, /^1 replica is to be placed, and there are places for 0$/);
  t.same(
    plan.refused.map(({ node, code }) => [node, code]),
    [
      [n1, 'domain'],
      [n2, 'taken'],
      [n3, 'taken'],
      [n4, 'no-label'],
    ],
  );
  const fresh = await client.explainPlacement({
    ...{ ...asked, volume: '', sizeBytes: gib, replicas: 2, onNode: n2 },
  });
  t.same(fresh.rules.preferred, ['zone'], 'what holds by itself is shown too');
  t.match(
    fresh.candidates.slice(0, 2).map(({ node, chosen }) => [node, chosen]),
    [
      [n2, 1],
      [n3, 2],
    ],
  );
  for (const { score, parts } of fresh.candidates) {
    t.equal(
      score,
      parts.reduce((sum, { points }) => sum + points, 0),
    );
  }
  t.match(
    await said(client.explainPlacement({ ...asked, volume: '' })),
    /INVALID_ARGUMENT: size 0/,
  );
  t.match(await said(client.explainPlacement({ ...asked, volume: 'no' })), /NOT_FOUND/);
  t.match(
    await said(client.explainPlacement({ ...asked, volume: 'db', segment: 4 })),
    /^NOT_FOUND: volume db has no segment 4/,
  );
});

t.test('labels that change are seen, told, and mended', async (t) => {
  const rig = await Rig.open(3);
  t.teardown(() => rig.close());
  const client = rig.client();
  const { nodes } = await client.listNodes({});
  const names = nodes.map(({ metadata }) => metadata.name).sort();
  const [n1 = '', n2 = '', n3 = ''] = names;
  const label = (name: string, zone: string) =>
    client.labelNode({ name, set: { zone }, remove: [] });
  await Promise.all([label(n1, 'a'), label(n2, 'b'), label(n3, 'a')]);
  const placement = { required: ['zone'] };
  await client.createVolume({ ...create, name: 'db', replicas: 2, placement, onNode: n1 });
  t.same((await client.listPlacementViolations({ volume: '' })).violations, []);
  await client.updateVolume({ name: 'db', policy: { rebuildPaused: true } });
  await Promise.all([label(n2, 'a'), label(n3, 'b')]);
  const { violations } = await client.listPlacementViolations({ volume: 'db' });
  t.match(violations, [{ volume: 'db', kind: 'domain', required: true, next: /paused/ }]);
  await client.updateVolume({ name: 'db', policy: { rebuildPaused: false } });
  await rig.until(async () => {
    const { status } = await client.getVolume({ name: 'db' });
    return status.replicas.some(({ leaving }) => leaving);
  });
  const { status } = await client.getVolume({ name: 'db' });
  t.match(
    status.replicas.find(({ node }) => node === n3),
    { purpose: 'move', leaving: false },
  );
  await rig.until(async () => {
    const { events } = await client.listEvents({ volume: 'db', afterRevision: 0, limit: 0 });
    return events.some(({ reason }) => reason === 'placement-violated');
  });
});
