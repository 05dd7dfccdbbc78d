import { StorError } from '@stor/protocol';
import { z } from 'zod';

/**
 * What is recorded of a member of the embedded cluster store besides its vote, which the Raft log
 * alone knows. Members that a configuration names have a record only when something was asked of them.
 */
export interface MemberRecord {
  id: string;
  name: string;
  /** host:port of its API, where the other members reach it */
  address: string;
  addedAtMs: number;
  /**
   * `wanted`: an operator made it a voter, it stays one; `never`: it becomes none by itself. Absent:
   * as the leader finds right.
   */
  voter?: 'wanted' | 'never';
  /** chosen by the node that joined: a repeated join is known by it */
  nonce?: string;
  /** it is to leave, or has left; its id is never used again */
  removedAtMs?: number;
}

const memberSchema = z.looseObject({
  id: z.string(),
  name: z.string(),
  address: z.string(),
  addedAtMs: z.number(),
  voter: z.string().optional(),
  nonce: z.string().optional(),
  removedAtMs: z.number().optional(),
});

/** INTERNAL when the bytes are no such record. */
export function decodeMember(key: string, value: Uint8Array): MemberRecord {
  try {
    return memberSchema.parse(JSON.parse(new TextDecoder().decode(value))) as MemberRecord;
  } catch (error) {
    throw new StorError('INTERNAL', `${key} holds no member`, { cause: error });
  }
}
