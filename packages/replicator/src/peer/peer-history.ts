import type { PeerHistory } from '@stor/protocol';

import type { GenerationHistory } from '../replica-store.ts';

/** A history as it goes over the wire. */
export function peerHistoryOf({ after, generations, regions }: GenerationHistory): PeerHistory {
  return { after, generations, regions: Buffer.from(regions).toString('base64') };
}

export function historyOfPeer({ after, generations, regions }: PeerHistory): GenerationHistory {
  return { after, generations, regions: new Uint8Array(Buffer.from(regions, 'base64')) };
}
