import type { CallOptions, StorApi } from './api.ts';
import type { Snapshot, TrashedVolume } from './resources.ts';

/** One method of the API over the wire, as it arrives. */
export type ApiCall = <M extends keyof StorApi>(
  method: M,
) => (
  request: Parameters<StorApi[M]>[0],
  options?: CallOptions,
) => Promise<Awaited<ReturnType<StorApi[M]>>>;

type SnapshotMethod =
  | 'listSnapshots'
  | 'getSnapshot'
  | 'createSnapshot'
  | 'deleteSnapshot'
  | 'adoptSnapshot'
  | 'diffSnapshots'
  | 'rollbackVolume'
  | 'cloneVolume'
  | 'undeleteVolume'
  | 'listTrash'
  | 'emptyTrash';

/** The methods about snapshots and deleted volumes: a number that is absent on the wire is null here. */
export function snapshotCalls(
  call: ApiCall,
  newRequestId: () => string,
): Pick<StorApi, SnapshotMethod> {
  const listSnapshots = call('listSnapshots');
  const getSnapshot = call('getSnapshot');
  const createSnapshot = call('createSnapshot');
  const adoptSnapshot = call('adoptSnapshot');
  const cloneVolume = call('cloneVolume');
  const diffSnapshots = call('diffSnapshots');
  const listTrash = call('listTrash');
  const emptyTrash = call('emptyTrash');
  return {
    listSnapshots: async (request, callOptions) => {
      const { snapshots } = await listSnapshots(request, callOptions);
      return { snapshots: snapshots.map(decodedSnapshot) };
    },
    getSnapshot: async (request, callOptions) =>
      decodedSnapshot(await getSnapshot(request, callOptions)),
    createSnapshot: async (request, callOptions) => {
      const requestId = request.requestId ?? newRequestId();
      const { snapshots } = await createSnapshot({ ...request, requestId }, callOptions);
      return { snapshots: snapshots.map(decodedSnapshot) };
    },
    deleteSnapshot: call('deleteSnapshot'),
    adoptSnapshot: async (request, callOptions) =>
      decodedSnapshot(await adoptSnapshot(request, callOptions)),
    diffSnapshots: async (request, callOptions) => {
      const diff = await diffSnapshots(request, callOptions);
      return { ...diff, nextOffset: diff.nextOffset ?? null };
    },
    rollbackVolume: call('rollbackVolume'),
    cloneVolume: (request, callOptions) => {
      const requestId = request.requestId ?? newRequestId();
      return cloneVolume({ ...request, requestId }, callOptions);
    },
    undeleteVolume: call('undeleteVolume'),
    listTrash: async (request, callOptions) => {
      const { volumes } = await listTrash(request, callOptions);
      return { volumes: volumes.map(decodedTrashed) };
    },
    emptyTrash: async (request, callOptions) => {
      const { volumes } = await emptyTrash(request, callOptions);
      return { volumes: volumes.map(decodedTrashed) };
    },
  };
}

function decodedSnapshot(wire: Snapshot): Snapshot {
  return { ...wire, status: { ...wire.status, ownBytes: wire.status.ownBytes ?? null } };
}

function decodedTrashed(wire: TrashedVolume): TrashedVolume {
  const allocatedBytes = wire.status.allocatedBytes ?? null;
  return { ...wire, status: { ...wire.status, allocatedBytes } };
}
