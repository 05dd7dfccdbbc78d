import { hasCode, idPattern } from '@stor/protocol';
import type { Node, Snapshot, Volume } from '@stor/protocol';
import { csiError } from './core/csi-error.ts';
import type { CsiApi } from './csi-api.ts';

/**
 * The volume with this id; null: there is none. A name is no id here, although the API takes either: one
 * volume must not be known by two ids, and the name of one may look like the id of another.
 */
export async function findVolume(
  api: Pick<CsiApi, 'getVolume'>,
  id: string,
  signal: AbortSignal,
): Promise<Volume | null> {
  if (!idPattern.test(id)) return null;
  const volume = await orNull(api.getVolume({ name: id }, { signal }));
  return volume?.metadata.id === id ? volume : null;
}

/** As above; NOT_FOUND. */
export async function theVolume(
  api: Pick<CsiApi, 'getVolume'>,
  id: string,
  signal: AbortSignal,
): Promise<Volume> {
  const volume = await findVolume(api, id, signal);
  if (volume) return volume;
  throw csiError('NOT_FOUND', `there is no volume with the id ${JSON.stringify(id.slice(0, 128))}`);
}

/** The volume with this name; null: there is none. */
export async function volumeNamed(
  api: Pick<CsiApi, 'getVolume'>,
  name: string,
  signal: AbortSignal,
): Promise<Volume | null> {
  return orNull(api.getVolume({ name }, { signal }));
}

/** By id; null: there is none, or it is being deleted. */
export async function findSnapshot(
  api: Pick<CsiApi, 'getSnapshot'>,
  id: string,
  signal: AbortSignal,
): Promise<Snapshot | null> {
  if (!idPattern.test(id)) return null;
  const snapshot = await orNull(api.getSnapshot({ name: id }, { signal }));
  const isGone = snapshot?.status.state === 'deleting' || snapshot?.status.state === 'orphan';
  return snapshot?.metadata.id === id && !isGone ? snapshot : null;
}

/** As above; NOT_FOUND. */
export async function theSnapshot(
  api: Pick<CsiApi, 'getSnapshot'>,
  id: string,
  signal: AbortSignal,
): Promise<Snapshot> {
  const snapshot = await findSnapshot(api, id, signal);
  if (snapshot) return snapshot;
  const text = JSON.stringify(id.slice(0, 128));
  throw csiError('NOT_FOUND', `there is no snapshot with the id ${text}`);
}

/** NOT_FOUND. Nodes are known by their ids, which NodeGetInfo has named. */
export async function theNode(
  api: Pick<CsiApi, 'getNode'>,
  id: string,
  signal: AbortSignal,
): Promise<Node> {
  const node = await orNull(api.getNode({ name: id }, { signal }));
  if (node?.metadata.id === id) return node;
  throw csiError('NOT_FOUND', `there is no node with the id ${JSON.stringify(id.slice(0, 128))}`);
}

async function orNull<T>(answer: Promise<T>): Promise<T | null> {
  try {
    return await answer;
  } catch (error) {
    if (hasCode(error, 'NOT_FOUND')) return null;
    throw error;
  }
}
