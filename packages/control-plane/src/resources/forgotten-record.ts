import { StorError } from '@stor/protocol';
import type { NodeId } from '@stor/protocol';
import { z } from 'zod';

/** What stays of a node that has left the cluster for ever. Its id is never used again. */
export interface ForgottenRecord {
  id: NodeId;
  name: string;
  /** by the wall clock of whoever removed it */
  atMs: number;
  /**
   * `decommissioned`: it had nothing any more; `forgotten`: it was lost, with what it had. A newer version
   * may know others: they are treated as `forgotten`.
   */
  how: string;
}

const schema = z.looseObject({
  id: z.string(),
  name: z.string(),
  atMs: z.number(),
  how: z.string(),
});

/** INTERNAL when the bytes are no such record. */
export function decodeForgotten(key: string, value: Uint8Array): ForgottenRecord {
  try {
    return schema.parse(JSON.parse(new TextDecoder().decode(value)));
  } catch (error) {
    throw new StorError('INTERNAL', `${key} holds no forgotten node`, { cause: error });
  }
}

/** `node n3 (n-...) was forgotten at 2026-01-01T00:00:00.000Z`. */
export function textOfEnd({ id, name, atMs, how }: ForgottenRecord): string {
  const done = how === 'decommissioned' ? 'decommissioned' : 'forgotten';
  return `node ${name} (${id}) was ${done} at ${new Date(atMs).toISOString()}`;
}

/** FAILED_PRECONDITION: the agent of a node that is gone for ever wants to be that node again. */
export function goneForEver(record: ForgottenRecord): StorError {
  const advice = 'start it with an empty data folder and a token';
  return new StorError('FAILED_PRECONDITION', `${textOfEnd(record)}: ${advice}`);
}

/** NOT_FOUND: somebody names a node that is gone for ever. */
export function noSuchNodeAnyMore(record: ForgottenRecord): StorError {
  return new StorError('NOT_FOUND', `${textOfEnd(record)}: it is no node of the cluster any more`);
}
