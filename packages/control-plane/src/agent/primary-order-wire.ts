import { StorError } from '@stor/protocol';
import type { VolumeId } from '@stor/protocol';
import type { PrimaryAnswer, PrimaryOrder } from '../agent-port.ts';

/** An order as one message: what its type does not have is absent, and arrives as '' or 0. */
export interface WireOrder {
  volumeId: VolumeId;
  epoch: number;
  type: string;
  token: string;
  holdMs: number;
  snapshotId: string;
  force: boolean;
  from: string;
  to: string;
  offset: number;
  limit: number;
  sizeBytes: number;
  id: string;
  version: number;
}

export function encodedOrder(volumeId: VolumeId, epoch: number, order: PrimaryOrder): object {
  return { volumeId, epoch, ...order };
}

/** INVALID_ARGUMENT for an order that this version does not know. */
export function decodedOrder(wire: WireOrder): PrimaryOrder {
  const { type, token, holdMs, snapshotId, force, from, to, offset, limit } = wire;
  switch (type) {
    case 'take':
      return { type, snapshotId, holdMs };
    case 'flush':
      return { type };
    case 'hold':
      return { type, token, holdMs };
    case 'prepare':
      return { type, token, snapshotId };
    case 'release':
      return { type, token };
    case 'seal':
    case 'confirm':
    case 'drop':
      return { type, snapshotId };
    case 'rollback':
      return { type, id: wire.id, version: wire.version, snapshotId, force };
    case 'resize':
      return { type, sizeBytes: wire.sizeBytes };
    case 'changes':
      return { type, from, to, offset, limit };
    default:
      throw new StorError('INVALID_ARGUMENT', `this node knows no order ${JSON.stringify(type)}`);
  }
}

export function decodedAnswer(wire: unknown): PrimaryAnswer {
  const { pausedMs, intact, extents } = wire as PrimaryAnswer;
  return { pausedMs, intact, extents: extents.map(({ offset, length }) => ({ offset, length })) };
}
