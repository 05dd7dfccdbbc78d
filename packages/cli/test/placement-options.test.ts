import { StorError } from '@stor/protocol';
import t from 'tap';
import { placementChanges, placementLines } from '../src/core/placement-text.ts';
import { readPlacement, type PlacementOptions } from '../src/placement-options.ts';

const lines = (options: PlacementOptions): string[] =>
  placementLines(readPlacement(options) ?? {}).map((line) => line.join(': '));

function errorOf(options: PlacementOptions): string {
  try {
    readPlacement(options);
    return 'no error';
  } catch (error) {
    return error instanceof StorError ? `${error.code}: ${error.message}` : String(error);
  }
}

t.test('placement options are rules, and are shown as they were given', async (t) => {
  t.equal(readPlacement({}), null, 'nothing was given');
  t.same(
    lines({
      spreadOver: 'zone, rack',
      requireSpread: 'rack',
      onNodes: ['disk=ssd', 'tier=1'],
      affinity: ['app=db'],
      antiAffinity: ['app=web,tier=a:required', 'app=x:required:zone', 'addr=a:b'],
    }),
    [
      'Required spread: rack',
      'Spread over: zone, then rack',
      'On nodes: disk=ssd,tier=1',
      'Affinity: app=db',
      'Anti-affinity: app=web,tier=a:required, app=x:required:zone, addr=a:b',
    ],
  );
  t.same(lines({ spreadOver: 'none' }), ['Spread over: none']);
});

t.test('an update changes the rules that were given and keeps the others', async (t) => {
  const before = { required: ['zone'], nodeSelector: { disk: 'ssd' }, preferred: ['rack'] };
  t.same(readPlacement({ requireSpread: 'none' }, before), {
    nodeSelector: { disk: 'ssd' },
    preferred: ['rack'],
  });
  t.same(readPlacement({ spreadOver: 'default', onNodes: ['none'] }, before), {
    required: ['zone'],
  });
  t.same(readPlacement({ requireSpread: 'none' }, { required: ['zone'] }), {}, 'nothing is left');
  t.same(placementChanges(before, { required: ['zone', 'rack'] }), [
    ['required spread', 'zone', 'zone, rack'],
    ['spread over', 'rack', 'default'],
    ['on nodes', 'disk=ssd', 'none'],
  ]);
});

t.test('what is no rule is refused', async (t) => {
  t.match(
    errorOf({ spreadOver: 'zone,,rack' }),
    /^INVALID_ARGUMENT: --spread-over .* names no label/,
  );
  t.match(errorOf({ spreadOver: 'none,zone' }), /"none" stands alone/);
  t.match(errorOf({ requireSpread: 'a,b,c,d,e' }), /5 required domains are too many/);
  t.match(errorOf({ requireSpread: 'zo ne' }), /label key "zo ne" is not valid/);
  t.match(errorOf({ onNodes: ['ssd'] }), /label "ssd" is not valid/);
  t.match(errorOf({ affinity: ['db'] }), /--affinity "db" names no label/);
  t.match(errorOf({ affinity: ['app=db:required:zone'] }), /an affinity rule has no domain/);
  t.match(
    errorOf({ antiAffinity: Array.from({ length: 9 }, (_, i) => `app=db${i}`) }),
    /9 anti-affinity rules are too many/,
  );
});
