import { StorError } from '@stor/protocol';
import { z } from 'zod';

/** How the cluster store chooses its voters. What is absent has its default. */
export interface MemberSettings {
  /** 1, 3, 5 or 7; absent: 3, or as many as there are */
  voters?: number;
  /** a voter that is down for so long is replaced (ms) */
  replacementWaitMs?: number;
}

/** Long enough for a reboot of a quick host; a replaced voter costs no more than its log (ms). */
export const defaultVoterWaitMs = 60_000;
export const minVoterWaitMs = 5_000;
export const voterCounts: readonly number[] = [1, 3, 5, 7];

const schema = z.looseObject({
  voters: z.number().optional(),
  replacementWaitMs: z.number().optional(),
});

/** INTERNAL when the bytes are no such record. */
export function decodeMemberSettings(key: string, value: Uint8Array): MemberSettings {
  try {
    return schema.parse(JSON.parse(new TextDecoder().decode(value))) as MemberSettings;
  } catch (error) {
    throw new StorError('INTERNAL', `${key} holds no settings of members`, { cause: error });
  }
}
