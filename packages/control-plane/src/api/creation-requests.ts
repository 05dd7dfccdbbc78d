import type { StorApi } from '@stor/protocol';
import { requestText, usedForAnother } from '../core/requests/change-rules.ts';
import type { StoredVolume } from '../resources/records.ts';
import { hashOf } from './request-ledger.ts';

/** What the record of a volume keeps of the request that makes it; both '' for one without an id. */
export function requestOf(
  method: keyof StorApi,
  request: { requestId?: string },
): { requestId: string; requestHash: string } {
  const { requestId = '' } = request;
  return { requestId, requestHash: requestId === '' ? '' : hashOf(requestText(method, request)) };
}

/** Whether this request has made the volume. INVALID_ARGUMENT when another one with its id has. */
export function isMadeBy(
  volume: Pick<StoredVolume, 'requestId' | 'requestHash'>,
  { requestId, requestHash }: { requestId: string; requestHash: string },
): boolean {
  if (requestId === '' || volume.requestId !== requestId) return false;
  // one of an older version says nothing of it
  if (volume.requestHash === undefined || volume.requestHash === requestHash) return true;
  throw usedForAnother(requestId);
}
