import { StorError } from '@stor/protocol';
import type { Compare, Operation, Transaction } from '../../cluster-store.ts';
import { ValueReader, decodeEnvelope, encodeEnvelope } from './envelope.ts';
import { countField, listField, objectField, textField } from './field.ts';
import { kvLevel, kvLimits } from './kv-limits.ts';

/**
 * Names a request, so that it is applied once however often it is sent. `since` is the number of
 * commands that the member had applied when it made the request: the state machine can tell from
 * it whether an id that it does not know was never seen or has been forgotten.
 */
export interface RequestStamp {
  id: string;
  since: number;
}

/** One entry of the log. Whatever `decodeCommand` returns can be applied without an error. */
export type KvCommand =
  | { type: 'transact'; request: RequestStamp; transaction: Transaction }
  | { type: 'grantLease'; request: RequestStamp; leaseId: string; ttlMs: number }
  /** see `kvLevel` */
  | { type: 'raiseLevel'; request: RequestStamp; level: number }
  | {
      type: 'revokeLease';
      request: RequestStamp;
      leaseId: string;
      /**
       * Of an expiry: the Raft term whose leader found the lease to have run out. Under any other
       * term the command does nothing, for a later leader has given the lease its full time.
       */
      onlyInTerm: number | null;
    };

type WithoutRequest<T> = T extends unknown ? Omit<T, 'request'> : never;

/** A command before it has its request id. */
export type KvCommandBody = WithoutRequest<KvCommand>;

/** Printable ASCII, so that order and length are the same as bytes, as strings and in any store. */
const keyPattern = /^[\x20-\x7e]+$/;
const idPattern = /^[\x21-\x7e]+$/;

function invalid(message: string): StorError {
  return new StorError('INVALID_ARGUMENT', message);
}

export function checkKey(key: string): void {
  if (key.length > kvLimits.maxKeyBytes) {
    throw invalid(`a key of ${key.length} bytes is longer than ${kvLimits.maxKeyBytes}`);
  }
  if (!keyPattern.test(key)) {
    throw invalid(`a key must be printable ASCII and not empty: ${JSON.stringify(key)}`);
  }
}

export function checkId(id: string, what: string): void {
  if (id.length > kvLimits.maxIdLength || !idPattern.test(id)) {
    throw invalid(`${what} must be 1 to ${kvLimits.maxIdLength} printable characters`);
  }
}

export function checkLeaseMs(ttlMs: number): void {
  const { minLeaseMs, maxLeaseMs } = kvLimits;
  if (!Number.isSafeInteger(ttlMs) || ttlMs < minLeaseMs || ttlMs > maxLeaseMs) {
    throw invalid(`a lease must last ${minLeaseMs} to ${maxLeaseMs} whole ms, not ${ttlMs}`);
  }
}

/** INVALID_ARGUMENT when a transaction is malformed or above a limit. */
export function checkTransaction(transaction: Transaction): void {
  const { compare, operations } = transaction;
  const items = Math.max(compare.length, operations.length);
  if (items > kvLimits.maxTransactionItems) {
    throw invalid(`a transaction of ${items} items has more than ${kvLimits.maxTransactionItems}`);
  }
  let bytes = 0;
  for (const { key, modRevision } of compare) {
    checkKey(key);
    bytes += key.length;
    if (!Number.isSafeInteger(modRevision) || modRevision < 0) {
      throw invalid(`modRevision of ${key} must be a whole number from 0, not ${modRevision}`);
    }
  }
  const written = new Set<string>();
  for (const operation of operations) {
    checkKey(operation.key);
    if (written.has(operation.key)) {
      throw invalid(
        `a transaction may change a key once; it has two operations on ${operation.key}`,
      );
    }
    written.add(operation.key);
    bytes += operation.key.length;
    if (operation.type === 'put') bytes += checkPut(operation);
  }
  if (bytes > kvLimits.maxTransactionBytes) {
    throw invalid(`a transaction of ${bytes} bytes is above ${kvLimits.maxTransactionBytes}`);
  }
}

function checkPut(operation: Extract<Operation, { type: 'put' }>): number {
  if (operation.leaseId) checkId(operation.leaseId, 'a lease id');
  if (operation.value.length > kvLimits.maxValueBytes) {
    throw invalid(
      `the value of ${operation.key} has ${operation.value.length} bytes, more than ${kvLimits.maxValueBytes}`,
    );
  }
  return operation.value.length;
}

/** INVALID_ARGUMENT when the command must not enter the log. */
export function checkCommand(command: KvCommand): void {
  checkId(command.request.id, 'a request id');
  if (command.type === 'transact') {
    checkTransaction(command.transaction);
    return;
  }
  if (command.type === 'raiseLevel') {
    if (command.level <= kvLevel) return;
    throw invalid(`level ${command.level} is not known, this program knows ${kvLevel}: upgrade it`);
  }
  checkId(command.leaseId, 'a lease id');
  if (command.type === 'grantLease') checkLeaseMs(command.ttlMs);
}

/** INVALID_ARGUMENT as `checkCommand`. */
export function encodeCommand(command: KvCommand): Uint8Array {
  checkCommand(command);
  const common = { id: command.request.id, since: command.request.since };
  switch (command.type) {
    case 'transact': {
      const { compare, operations } = command.transaction;
      const header = {
        ...common,
        type: 'transact',
        compare: compare.map(({ key, modRevision }) => [key, modRevision]),
        operations: operations.map(operationHeader),
      };
      return encodeEnvelope(
        header,
        operations.flatMap((operation) => (operation.type === 'put' ? [operation.value] : [])),
      );
    }
    case 'grantLease':
      return encodeEnvelope({
        ...common,
        type: 'grantLease',
        leaseId: command.leaseId,
        ttlMs: command.ttlMs,
      });
    case 'raiseLevel':
      return encodeEnvelope({ ...common, type: 'raiseLevel', level: command.level });
    case 'revokeLease':
      return encodeEnvelope({
        ...common,
        type: 'revokeLease',
        leaseId: command.leaseId,
        onlyInTerm: command.onlyInTerm,
      });
  }
}

function operationHeader(operation: Operation): object {
  if (operation.type === 'delete') return { key: operation.key, delete: true };
  const { key, value, leaseId } = operation;
  return leaseId ? { key, bytes: value.length, leaseId } : { key, bytes: value.length };
}

/**
 * PROTOCOL when the bytes are no command that this program can apply. Unknown fields are skipped,
 * an unknown type is refused: to skip what others apply would make members differ.
 */
export function decodeCommand(bytes: Uint8Array): KvCommand {
  const { header, values } = decodeEnvelope(bytes);
  const request = {
    id: textField(header['id'], 'id'),
    since: countField(header['since'], 'since'),
  };
  const reader = new ValueReader(values);
  const command = decodeBody(textField(header['type'], 'type'), header, request, reader);
  reader.end();
  try {
    checkCommand(command);
  } catch (error) {
    const reason = StorError.from(error);
    throw new StorError('PROTOCOL', `cluster store command: ${reason.message}`, { cause: error });
  }
  return command;
}

function decodeBody(
  type: string,
  header: Record<string, unknown>,
  request: RequestStamp,
  reader: ValueReader,
): KvCommand {
  switch (type) {
    case 'transact': {
      const compare = listField(header['compare'], 'compare').map(decodeCompare);
      const operations = listField(header['operations'], 'operations').map((item) =>
        decodeOperation(item, reader),
      );
      return { type, request, transaction: { compare, operations } };
    }
    case 'grantLease':
      return {
        type,
        request,
        leaseId: textField(header['leaseId'], 'leaseId'),
        ttlMs: countField(header['ttlMs'], 'ttlMs'),
      };
    case 'raiseLevel':
      return { type, request, level: countField(header['level'], 'level') };
    case 'revokeLease': {
      const term = header['onlyInTerm'] ?? null;
      return {
        type,
        request,
        leaseId: textField(header['leaseId'], 'leaseId'),
        onlyInTerm: term === null ? null : countField(term, 'onlyInTerm'),
      };
    }
    default:
      throw new StorError('PROTOCOL', `cluster store command of unknown type '${type}'`);
  }
}

function decodeCompare(item: unknown): Compare {
  const [key, modRevision] = listField(item, 'compare item');
  return { key: textField(key, 'key'), modRevision: countField(modRevision, 'modRevision') };
}

function decodeOperation(item: unknown, reader: ValueReader): Operation {
  const field = objectField(item, 'operation');
  const key = textField(field['key'], 'key');
  if (field['delete'] === true) return { type: 'delete', key };
  const value = reader.take(countField(field['bytes'], 'bytes'));
  const leaseId = field['leaseId'] === undefined ? '' : textField(field['leaseId'], 'leaseId');
  return leaseId ? { type: 'put', key, value, leaseId } : { type: 'put', key, value };
}
