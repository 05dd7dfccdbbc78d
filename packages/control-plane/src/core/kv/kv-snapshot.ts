import { ValueReader, decodeEnvelope, encodeEnvelope } from './envelope.ts';
import { countField, listField, textField } from './field.ts';
import { statusField } from './kv-result.ts';
import type { KvImage } from './kv-state.ts';
import type { RememberedRequest } from './remembered-requests.ts';

export function encodeSnapshot(image: KvImage): Uint8Array {
  const header = {
    ...image.extra,
    revision: image.revision,
    sequence: image.sequence,
    items: image.items.map((item) => [
      item.key,
      item.createRevision,
      item.modRevision,
      item.leaseId,
      item.value.length,
    ]),
    leases: image.leases.map(({ leaseId, ttlMs }) => [leaseId, ttlMs]),
    forgottenUpTo: image.forgottenUpTo,
    requests: image.requests.map(({ id, sequence, result }) => [
      id,
      sequence,
      result.status,
      result.succeeded ? 1 : 0,
      result.revision,
    ]),
  };
  return encodeEnvelope(
    header,
    image.items.map((item) => item.value),
  );
}

/** PROTOCOL when the bytes are no snapshot that this program knows. */
export function decodeSnapshot(bytes: Uint8Array): KvImage {
  const { header, values } = decodeEnvelope(bytes);
  const { revision, sequence, items, leases, forgottenUpTo, requests, ...extra } = header;
  const reader = new ValueReader(values);
  const image: KvImage = {
    revision: countField(revision, 'revision'),
    sequence: countField(sequence, 'sequence'),
    items: listField(items, 'items').map((item) => {
      const [key, createRevision, modRevision, leaseId, length] = listField(item, 'item');
      return {
        key: textField(key, 'key'),
        createRevision: countField(createRevision, 'createRevision'),
        modRevision: countField(modRevision, 'modRevision'),
        leaseId: textField(leaseId, 'leaseId'),
        value: reader.take(countField(length, 'value length')),
      };
    }),
    leases: listField(leases, 'leases').map((item) => {
      const [leaseId, ttlMs] = listField(item, 'lease');
      return { leaseId: textField(leaseId, 'leaseId'), ttlMs: countField(ttlMs, 'ttlMs') };
    }),
    forgottenUpTo: countField(forgottenUpTo, 'forgottenUpTo'),
    requests: listField(requests, 'requests').map(decodeRequest),
    extra,
  };
  reader.end();
  return image;
}

function decodeRequest(item: unknown): RememberedRequest {
  const [id, sequence, status, succeeded, revision] = listField(item, 'request');
  return {
    id: textField(id, 'id'),
    sequence: countField(sequence, 'sequence'),
    result: {
      status: statusField(status),
      succeeded: countField(succeeded, 'succeeded') === 1,
      revision: countField(revision, 'revision'),
    },
  };
}
