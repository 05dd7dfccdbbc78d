import { RaftError } from '../errors.ts';
import { BytesReader, BytesWriter } from './bytes.ts';
import {
  maxAppendEntries,
  maxFrameBytes,
  maxFrameMessages,
  maxWholeSnapshotBytes,
  maxVoters,
} from './limits.ts';
import { membershipOf, readMembership, writeMembership, type Membership } from './membership.ts';
import type { Entry, RaftMessage, WholeSnapshot } from './types.ts';

/**
 * Messages as bytes: big-endian, one version byte, a count, then each message. The transport is
 * trusted to carry bytes unchanged (TCP, HTTP/2); what it carries is not trusted: every length is
 * checked against the bytes there are before anything is allocated.
 */
const version = 1;

/** On the wire by number: never change one, only add. */
const messageTypes = [
  'vote',
  'voteResponse',
  'preVote',
  'preVoteResponse',
  'append',
  'appendResponse',
  'heartbeat',
  'heartbeatResponse',
  'snapshot',
  'timeoutNow',
  'transferVote',
  'snapshotChunk',
  'snapshotChunkResponse',
] as const;
const entryTypes = ['normal', 'empty', 'config'] as const;

/** Throws INVALID_ARGUMENT when the batch is over a limit of the wire. */
export function encodeMessages(messages: RaftMessage[]): Uint8Array {
  if (messages.length > maxFrameMessages) {
    throw new RaftError('INVALID_ARGUMENT', `more than ${maxFrameMessages} messages in one batch`);
  }
  const writer = new BytesWriter(messages.reduce((sum, message) => sum + sizeHint(message), 16));
  writer.u8(version);
  writer.u32(messages.length);
  for (const message of messages) writeMessage(writer, message);
  const bytes = writer.finish();
  if (bytes.length > maxFrameBytes) {
    throw new RaftError('INVALID_ARGUMENT', `a batch of ${bytes.length} bytes is over the limit`);
  }
  return bytes;
}

function sizeHint(message: RaftMessage): number {
  if (message.type === 'append') {
    return message.entries.reduce((sum, entry) => sum + entry.data.length + 24, 128);
  }
  if (message.type === 'snapshotChunk') return message.data.length + 1024;
  return message.type === 'snapshot' ? message.snapshot.data.length + 1024 : 128;
}

/**
 * The messages, with data copied out of `bytes`, as entries live long and a receive buffer is used
 * again. Throws CORRUPT when the bytes are not exactly what `encodeMessages` makes.
 */
export function decodeMessages(bytes: Uint8Array): RaftMessage[] {
  if (bytes.length > maxFrameBytes) {
    throw new RaftError('CORRUPT', `a batch of ${bytes.length} bytes is over the limit`);
  }
  const reader = new BytesReader(bytes, 'a batch of messages');
  const seen = reader.u8();
  if (seen !== version) reader.fail(`version ${seen} is not known`);
  const count = reader.u32();
  if (count > maxFrameMessages) reader.fail(`${count} messages are over the limit`);
  const messages: RaftMessage[] = [];
  for (let i = 0; i < count; i++) messages.push(readMessage(reader));
  reader.expectEnd();
  return messages;
}

function writeMessage(writer: BytesWriter, message: RaftMessage): void {
  const isTransfer = message.type === 'vote' && message.isTransfer;
  // a number of its own, so that a plain vote stays as it was
  writer.u8(messageTypes.indexOf(isTransfer ? 'transferVote' : message.type));
  writer.text(message.from);
  writer.text(message.to);
  writer.u53(message.term);
  switch (message.type) {
    case 'vote':
    case 'preVote':
      writer.u53(message.lastIndex);
      writer.u53(message.lastTerm);
      return;
    case 'voteResponse':
    case 'preVoteResponse':
      writer.u8(message.rejected ? 1 : 0);
      return;
    case 'append':
      writer.u53(message.previousIndex);
      writer.u53(message.previousTerm);
      writer.u53(message.commit);
      writer.u32(message.entries.length);
      for (const entry of message.entries) {
        writer.u53(entry.term);
        writeEntryContent(writer, entry);
      }
      return;
    case 'appendResponse':
      // 2 is of a member that recovers; others were written so before there were such
      writer.u8(message.rejected ? (message.isRecovering ? 2 : 1) : 0);
      writer.u53(message.index);
      writer.u53(message.hintIndex);
      writer.u53(message.hintTerm);
      return;
    case 'heartbeat':
      writer.u53(message.commit);
      writer.u53(message.readContext);
      return;
    case 'heartbeatResponse':
      writer.u53(message.readContext);
      return;
    case 'snapshot':
      writeSnapshot(writer, message.snapshot);
      return;
    case 'snapshotChunk':
      writer.u53(message.snapshotIndex);
      writer.u53(message.snapshotTerm);
      writeMembership(writer, message.membership);
      writer.u53(message.totalBytes);
      writer.u53(message.offset);
      writer.bytes(message.data);
      writer.u32(message.checksum);
      return;
    case 'snapshotChunkResponse':
      writer.u53(message.snapshotIndex);
      writer.u53(message.snapshotTerm);
      writer.u53(message.nextOffset);
      return;
    case 'timeoutNow':
  }
}

function readMessage(reader: BytesReader): RaftMessage {
  const type = messageTypes[reader.u8()];
  if (type === undefined) reader.fail('a message of unknown type');
  const envelope = { from: reader.text(), to: reader.text(), term: reader.u53() };
  switch (type) {
    case 'vote':
    case 'preVote':
    case 'transferVote': {
      const isTransfer = type === 'transferVote';
      const last = { lastIndex: reader.u53(), lastTerm: reader.u53() };
      return { ...envelope, type: isTransfer ? 'vote' : type, ...last, isTransfer };
    }
    case 'voteResponse':
    case 'preVoteResponse':
      return { ...envelope, type, rejected: reader.flag() };
    case 'append': {
      const previousIndex = reader.u53();
      const previousTerm = reader.u53();
      const commit = reader.u53();
      const entries = readEntries(reader, previousIndex, previousTerm, envelope.term);
      return { ...envelope, type, previousIndex, previousTerm, commit, entries };
    }
    case 'appendResponse': {
      const answer = reader.u8();
      if (answer > 2) reader.fail(`answer ${answer} is not known`);
      return {
        ...envelope,
        type,
        rejected: answer > 0,
        index: reader.u53(),
        hintIndex: reader.u53(),
        hintTerm: reader.u53(),
        isRecovering: answer === 2,
      };
    }
    case 'heartbeat':
      return { ...envelope, type, commit: reader.u53(), readContext: reader.u53() };
    case 'heartbeatResponse':
      return { ...envelope, type, readContext: reader.u53() };
    case 'snapshot':
      return { ...envelope, type, snapshot: readSnapshot(reader) };
    case 'timeoutNow':
      return { ...envelope, type };
    case 'snapshotChunk':
      return {
        ...envelope,
        type,
        snapshotIndex: reader.u53(),
        snapshotTerm: reader.u53(),
        membership: readMembership(reader),
        totalBytes: reader.u53(),
        offset: reader.u53(),
        data: reader.bytes(),
        checksum: reader.u32(),
      };
    case 'snapshotChunkResponse':
      return {
        ...envelope,
        type,
        snapshotIndex: reader.u53(),
        snapshotTerm: reader.u53(),
        nextOffset: reader.u53(),
      };
  }
}

/** Indexes are not sent: they follow the previous one. Terms may only rise, up to the message's. */
function readEntries(
  reader: BytesReader,
  previousIndex: number,
  previousTerm: number,
  messageTerm: number,
): Entry[] {
  const count = reader.u32();
  if (count > maxAppendEntries) reader.fail(`${count} entries in one append`);
  const entries: Entry[] = [];
  let lowestTerm = previousTerm;
  for (let i = 0; i < count; i++) {
    const term = reader.u53();
    if (term < lowestTerm || term > messageTerm)
      reader.fail('the terms of entries are not in order');
    lowestTerm = term;
    entries.push({ index: previousIndex + 1 + i, term, ...readEntryContent(reader) });
  }
  return entries;
}

/** Also the form of an entry in a store, behind its index and term. */
export function writeEntryContent(writer: BytesWriter, entry: Pick<Entry, 'type' | 'data'>): void {
  writer.u8(entryTypes.indexOf(entry.type));
  writer.bytes(entry.data);
}

export function readEntryContent(reader: BytesReader): Pick<Entry, 'type' | 'data'> {
  const type = entryTypes[reader.u8()];
  if (type === undefined) reader.fail('an entry of unknown type');
  return { type, data: reader.bytes() };
}

/** Also the form of a snapshot in a store of format 2. */
export function writeSnapshot(writer: BytesWriter, snapshot: WholeSnapshot): void {
  writer.u53(snapshot.index);
  writer.u53(snapshot.term);
  writeSnapshotMembers(writer, snapshot.membership);
  writer.bytes(snapshot.data);
}

/** In front of a membership that is not plain voters; a count of voters is never so high. */
const fullMembership = 255;

/** Plain voters are written as a list, as before there were learners. */
export function writeSnapshotMembers(writer: BytesWriter, membership: Membership): void {
  const { voters, outgoing, learners, learnersNext, autoLeave } = membership;
  if (outgoing.length + learners.length + learnersNext.length > 0 || autoLeave) {
    writer.u8(fullMembership);
    writeMembership(writer, membership);
    return;
  }
  writer.u8(voters.length);
  for (const voter of voters) writer.text(voter);
}

export function readSnapshotMembers(reader: BytesReader): Membership {
  const count = reader.u8();
  if (count === fullMembership) return readFullMembership(reader);
  if (count > maxVoters) reader.fail(`${count} voters`);
  const voters: string[] = [];
  for (let i = 0; i < count; i++) voters.push(reader.text());
  return { ...membershipOf([]), voters };
}

function readFullMembership(reader: BytesReader): Membership {
  const membership = readMembership(reader);
  const { outgoing, learners, learnersNext, autoLeave } = membership;
  const isFull = outgoing.length + learners.length + learnersNext.length > 0 || autoLeave;
  if (!isFull) reader.fail('a membership in the longer form that fits the shorter one');
  return membership;
}

export function readSnapshot(reader: BytesReader): WholeSnapshot {
  const index = reader.u53();
  const term = reader.u53();
  const membership = readSnapshotMembers(reader);
  const data = reader.bytes();
  if (data.length > maxWholeSnapshotBytes) reader.fail(`a snapshot of ${data.length} bytes`);
  return { index, term, membership, data };
}
