import type { PrimaryAnswer, PrimaryOrder } from '@stor/control-plane';
import { hasCode, StorError } from '@stor/protocol';
import type { PrimaryVolume } from '@stor/replicator';

const done: PrimaryAnswer = { pausedMs: 0, intact: true, extents: [] };

/** Carries out an order about snapshots (see PrimaryOrder) at a primary that serves. */
export async function carryOut(
  primary: PrimaryVolume,
  order: Exclude<PrimaryOrder, { type: 'rollback' }>,
): Promise<PrimaryAnswer> {
  switch (order.type) {
    case 'take':
      return take(primary, order);
    case 'flush':
      await flush(primary);
      return done;
    case 'hold':
      await hold(primary, order);
      return done;
    case 'prepare':
      await prepare(primary, order);
      return done;
    case 'release': {
      const { heldMs, intact } = primary.release(order.token);
      return { ...done, pausedMs: heldMs, intact };
    }
    case 'seal':
      await primary.sealSnapshot(order.snapshotId);
      return done;
    case 'confirm':
      await primary.confirmSnapshot(order.snapshotId);
      return done;
    case 'drop':
      await primary.dropSnapshot(order.snapshotId);
      return done;
    case 'resize':
      await primary.resize(order.sizeBytes);
      return done;
    case 'changes': {
      const { from, to, offset, limit } = order;
      const all = await primary.changedExtents(from === '' ? null : from, to === '' ? null : to);
      const later = all.filter((extent) => extent.offset >= offset);
      return { ...done, extents: later.slice(0, limit) };
    }
  }
}

/** TIMEOUT when clients would have to wait for too long; then no replica keeps anything. */
async function take(
  primary: PrimaryVolume,
  { snapshotId, holdMs }: PrimaryOrder & { type: 'take' },
): Promise<PrimaryAnswer> {
  // what is durable already is not waited for under the hold
  await flush(primary);
  const token = snapshotId;
  await hold(primary, { token, holdMs });
  try {
    await prepare(primary, { token, snapshotId });
  } catch (error) {
    primary.release(token);
    throw error;
  }
  const { heldMs, intact } = primary.release(token);
  if (!intact) throw tooLong(`it was held for ${heldMs} ms`);
  await primary.sealSnapshot(snapshotId);
  return { ...done, pausedMs: heldMs };
}

/** TIMEOUT also while another order holds the volume: both are short, so the caller tries again. */
async function hold(
  primary: PrimaryVolume,
  { token, holdMs }: { token: string; holdMs: number },
): Promise<void> {
  try {
    await primary.hold({ token, holdMs });
  } catch (error) {
    if (hasCode(error, 'FAILED_PRECONDITION')) throw tooLong(error.message, error);
    throw error;
  }
}

async function prepare(
  primary: PrimaryVolume,
  { token, snapshotId }: { token: string; snapshotId: string },
): Promise<void> {
  try {
    await primary.prepareSnapshot({ token, snapshotId });
  } catch (error) {
    if (hasCode(error, 'FAILED_PRECONDITION')) throw tooLong(error.message, error);
    throw error;
  }
}

function tooLong(message: string, cause?: unknown): StorError {
  return new StorError('TIMEOUT', message, { cause });
}

function flush(primary: PrimaryVolume): Promise<void> {
  return new Promise((resolve, reject) => {
    primary.flush({
      offset: 0,
      length: 0,
      bytes: null,
      start: 0,
      retained: true,
      fua: false,
      noHole: false,
      done: (error) => {
        if (error) reject(error);
        else resolve();
      },
    });
  });
}
