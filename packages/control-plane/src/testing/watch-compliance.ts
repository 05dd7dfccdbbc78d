import { decodeWatchBatch, WatchFold } from '@stor/protocol';
import type { WatchBatch } from '@stor/protocol';
import { silentLogger, systemClock, systemRandom } from '@stor/runtime';
import type { Test } from 'tap';
import { WatchService } from '../api/watch-service.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { nodeKey, nodeLeaseKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import { StateCache } from '../resources/state-cache.ts';

/** Nodes written by several members at once, so that their changes are in one order for all watchers. */
const writes = 60;
const addresses = { api: 'h:1', http: 'h:2', peers: [], nbd: [], nbdUnix: [] };
const nodeId = (i: number): string => `n-${i.toString(16).padStart(16, '0')}`;

const nodeRecord = (i: number, version: string): object => ({
  id: nodeId(i),
  name: `n${i}`,
  labels: {},
  createdAtMs: 0,
  addresses,
  agentInstance: 'i',
  bootId: 'b',
  version,
});

/** What one member's watch has told, folded. */
interface Folded {
  versions: Map<string, string>;
  revisions: number[];
  stop: AbortController;
  over: Promise<void>;
}

/** Objects of the API are watched alike on every member, whatever store is below. */
export async function watchedObjects(
  t: Test,
  stores: readonly [ClusterStore, ClusterStore, ClusterStore],
): Promise<void> {
  const caches = stores.map((store) => new StateCache(store, systemClock, silentLogger));
  const services = stores.map(
    (store, at) =>
      new WatchService({
        store,
        cache: caches[at] as StateCache,
        clock: systemClock,
        random: systemRandom,
        logger: silentLogger,
        trouble: () => null,
      }),
  );
  const put = (store: ClusterStore, i: number, version: string): Promise<unknown> =>
    store.transact({
      compare: [],
      operations: [
        { type: 'put', key: nodeKey(nodeId(i)), value: encodeRecord(nodeRecord(i, version)) },
      ],
    });
  await put(stores[0], 0, 'first');
  const watched = services.map((service) => watch(service));
  for (let i = 0; i < writes; i++) await put(stores[i % 3] as ClusterStore, i % 7, `v${i}`);
  await stores[1].transact({
    compare: [],
    operations: [
      { type: 'delete', key: nodeKey(nodeId(1)) },
      {
        type: 'put',
        key: nodeLeaseKey(nodeId(0)),
        value: encodeRecord({ agentInstance: 'i', bootId: 'b', addresses }),
      },
    ],
  });
  const isDone = ({ versions }: Folded): boolean => versions.get('n0') === `v${56} up`;
  while (!watched.every(isDone)) await new Promise((resolve) => setTimeout(resolve, 5));
  const expected = [0, 2, 3, 4, 5, 6].map((i) => {
    const last = Math.floor((writes - 1 - i) / 7) * 7 + i;
    return [`n${i}`, `v${last} ${i === 0 ? 'up' : 'down'}`];
  });
  for (const { versions, revisions } of watched) {
    t.same([...versions].sort(), expected, 'as the records are');
    t.same(
      revisions,
      [...revisions].sort((a, b) => a - b),
      'in order',
    );
  }
  for (const { stop } of watched) stop.abort();
  await Promise.all(watched.map(({ over }) => over));
  for (const service of services) service.close();
  await Promise.all(caches.map((cache) => cache.close()));
}

function watch(service: WatchService): Folded {
  const fold = new WatchFold();
  const stop = new AbortController();
  const folded = { versions: new Map<string, string>(), revisions: [] as number[] };
  const take = (message: object): Promise<void> => {
    // through the shape of the wire
    const batch: WatchBatch = decodeWatchBatch(structuredClone(message));
    for (const event of fold.apply(batch)) {
      folded.revisions.push(event.revision);
      if (!('object' in event) || event.kind !== 'node') continue;
      const { metadata, status } = event.object;
      if (event.type === 'DELETED') folded.versions.delete(metadata.name);
      else folded.versions.set(metadata.name, `${status.version} ${status.state}`);
    }
    return Promise.resolve();
  };
  const request = { kinds: ['node'], name: '', history: '', afterRevision: 0, listAgain: true };
  const context = { signal: stop.signal, header: () => '' };
  const over = service.streams.watch(request as never, context, take).catch(() => {});
  return { ...folded, stop, over };
}
