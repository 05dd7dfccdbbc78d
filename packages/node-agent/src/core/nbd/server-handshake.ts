import {
  allocationContext,
  clientFlagsBytes,
  decodeGoBody,
  decodeMetaContextBody,
  decodeOptionHeader,
  encodeExportNameReply,
  encodeGreeting,
  encodeInfo,
  encodeMetaContextReply,
  encodeOptionReply,
  encodeServerBody,
  handshakeFlag,
  infoType,
  maxStringBytes,
  optionHeaderBytes,
  optionReplyType,
  optionType,
  parseClientContext,
  readText,
  transmissionFlag,
  type ClientIdentity,
  type HeaderForm,
} from 'nbd-client-js';
import { askedContexts, dirtyContext, type AskedContexts } from './meta-contexts.ts';
import type { NbdLimits } from './nbd-limits.ts';
import { TlsGate, type TlsMode } from './tls-gate.ts';

/** Longest message in a reply; the specification allows 4096 bytes. */
const maxMessageChars = 1_000;

/** What the machine must be told before it can go on; see `answer`. */
export type HandshakeQuestion =
  | { kind: 'list' }
  | { kind: 'info'; name: string; describes?: true }
  /** which of the export's snapshots changes can be told since; an export that there is not is refused */
  | { kind: 'snapshots'; name: string; asked: readonly string[] | 'all' }
  /** the client enters transmission with this export if it may, with these contexts */
  | {
      kind: 'open';
      name: string;
      client: ClientIdentity | null;
      contexts: readonly string[];
      /** a line about it for people is wanted */
      describes?: true;
    };

export type HandshakeAnswer =
  | { kind: 'names'; names: readonly string[] }
  | { kind: 'export'; name: string; sizeBytes: number; readOnly: boolean; description?: string }
  | { kind: 'snapshots'; names: readonly string[] }
  /** `type` is a value of `optionReplyType` */
  | { kind: 'error'; type: number; message: string };

/** What follows one step, after `send` has been sent. */
export type HandshakeNext =
  /** more bytes are needed */
  | { kind: 'wait' }
  /** call `receive` again with what is left */
  | { kind: 'again' }
  | { kind: 'ask'; question: HandshakeQuestion }
  | { kind: 'transmission' }
  /** when `send` has left the connection goes on as TLS; then call `secured` */
  | { kind: 'tls' }
  | { kind: 'close'; reason: string };

export interface HandshakeStep {
  /** bytes of the input that are done with */
  used: number;
  send: Buffer[];
  next: HandshakeNext;
}

interface PendingOption {
  option: number;
  exportName: string;
  /** kinds of information that INFO or GO asked for */
  infos: number[];
  /** of LIST_META_CONTEXT or SET_META_CONTEXT */
  asked: AskedContexts | null;
}

type HandshakeLimits = Pick<
  NbdLimits,
  'optionBytes' | 'skippedOptionBytes' | 'options' | 'payloadBytes' | 'metaContexts'
>;

/**
 * The server's side of the fixed newstyle handshake: bytes and answers in, bytes and questions out,
 * one option per step. Whatever a client sends, each step ends, and nothing that a length field asks
 * for is kept before that length is known to be small.
 */
export class ServerHandshake {
  /** settled when the client enters transmission */
  form: HeaderForm = 'simple';
  /** of the last SET_META_CONTEXT: a context counts only for the export that it was set for */
  #set: { exportName: string; contexts: readonly string[] } | null = null;
  /** of the last INFO or GO */
  #exportName = '';
  /** who the client said it is, with its last SET_META_CONTEXT */
  #client: ClientIdentity | null = null;
  #fixed = false;
  #noZeroes = false;
  #greeted = false;
  #options = 0;
  #skipBytes = 0;
  #pending: PendingOption | null = null;
  readonly #limits: HandshakeLimits;
  readonly #gate: TlsGate;

  constructor(limits: HandshakeLimits, tls: TlsMode = 'off') {
    this.#limits = limits;
    this.#gate = new TlsGate(tls);
  }

  /** TLS has been agreed on: all that was settled in the clear is forgotten. */
  secured(): void {
    this.#gate.secured();
    this.form = 'simple';
    this.#set = null;
    this.#exportName = '';
    this.#client = null;
  }

  /** Grants nothing any more: options are answered ERR_SHUTDOWN. */
  stop(): void {
    this.#gate.stop();
  }

  /** What the server says first. */
  greeting(): Buffer {
    return encodeGreeting(handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes);
  }

  /** Names of the contexts of the export; the id of each is its place, from 1. */
  get contexts(): readonly string[] {
    return this.#contextsOf(this.#exportName);
  }

  /** The client said who it is, as only those do that know what this server says and mean to come back. */
  get isNamed(): boolean {
    return this.#client !== null;
  }

  #contextsOf(exportName: string): readonly string[] {
    const isForIt = this.form !== 'simple' && this.#set?.exportName === exportName;
    return isForIt ? (this.#set?.contexts ?? []) : [];
  }

  receive(bytes: Buffer, start: number, end: number): HandshakeStep {
    const available = end - start;
    if (this.#skipBytes > 0) {
      const used = Math.min(this.#skipBytes, available);
      this.#skipBytes -= used;
      return step(used, [], used > 0 ? { kind: 'again' } : { kind: 'wait' });
    }
    if (!this.#greeted) {
      if (available < clientFlagsBytes) return step(0, [], { kind: 'wait' });
      return this.#takeFlags(bytes.readUInt32BE(start));
    }
    if (available < optionHeaderBytes) return step(0, [], { kind: 'wait' });
    const header = decodeOptionHeader(bytes, start);
    if (!header) return closing('option with a wrong magic');
    if (header.length > this.#limits.optionBytes) return this.#tooBig(header.option, header.length);
    const used = optionHeaderBytes + header.length;
    if (available < used) return step(0, [], { kind: 'wait' });
    this.#options += 1;
    if (this.#options > this.#limits.options) return closing('too many options');
    if (!this.#fixed && header.option !== optionType.exportName) {
      return closing('an option that needs fixed newstyle');
    }
    const data = bytes.subarray(start + optionHeaderBytes, start + used);
    return { ...this.#takeOption(header.option, data), used };
  }

  #takeFlags(flags: number): HandshakeStep {
    const known = handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes;
    if ((flags & ~known) !== 0) return closing('unknown client flags');
    this.#greeted = true;
    this.#fixed = (flags & handshakeFlag.fixedNewstyle) !== 0;
    this.#noZeroes = (flags & handshakeFlag.noZeroes) !== 0;
    return step(clientFlagsBytes, [], { kind: 'again' });
  }

  #tooBig(option: number, length: number): HandshakeStep {
    this.#options += 1;
    const { optionBytes, skippedOptionBytes, options } = this.#limits;
    if (length > skippedOptionBytes || option === optionType.exportName || !this.#fixed) {
      return closing(`option of ${length} bytes`);
    }
    if (this.#options > options) return closing('too many options');
    this.#skipBytes = length;
    const refusal = this.#gate.refusalOf(option);
    if (refusal) {
      const reply = errorReply(option, refusal.type, refusal.message);
      return step(optionHeaderBytes, [reply], { kind: 'again' });
    }
    const message = `option data of ${length} bytes; the most is ${optionBytes}`;
    const reply = errorReply(option, optionReplyType.errTooBig, message);
    return step(optionHeaderBytes, [reply], { kind: 'again' });
  }

  #takeOption(option: number, data: Buffer): HandshakeStep {
    const refusal = this.#gate.refusalOf(option);
    if (refusal) {
      const { type, message } = refusal;
      return option === optionType.exportName ? closing(message) : refuse(option, message, type);
    }
    switch (option) {
      case optionType.exportName:
        return this.#takeExportName(data);
      case optionType.abort:
        return step(0, [ack(option)], { kind: 'close', reason: 'the client left' });
      case optionType.list:
        if (data.length > 0) return refuse(option, 'LIST has no data');
        return this.#ask({ option, exportName: '', infos: [], asked: null }, { kind: 'list' });
      case optionType.starttls:
        if (data.length > 0) return refuse(option, 'STARTTLS has no data');
        return step(0, [ack(option)], { kind: 'tls' });
      case optionType.structuredReply:
        if (data.length > 0) return refuse(option, 'STRUCTURED_REPLY has no data');
        if (this.form === 'extended') {
          const message = 'extended headers were chosen already, which include structured replies';
          return refuse(option, message, optionReplyType.errExtHeaderReqd);
        }
        this.form = 'structured';
        return step(0, [ack(option)], { kind: 'again' });
      case optionType.extendedHeaders:
        if (data.length > 0) return refuse(option, 'EXTENDED_HEADERS has no data');
        this.form = 'extended';
        return step(0, [ack(option)], { kind: 'again' });
      case optionType.info:
      case optionType.go:
        return this.#takeGo(option, data);
      case optionType.listMetaContext:
      case optionType.setMetaContext:
        return this.#takeMetaContext(option, data);
      default:
        return refuse(option, `option ${option} is not known here`, optionReplyType.errUnsup);
    }
  }

  #ask(pending: PendingOption, question: HandshakeQuestion): HandshakeStep {
    this.#pending = pending;
    return step(0, [], { kind: 'ask', question });
  }

  #takeExportName(data: Buffer): HandshakeStep {
    // its answer has no room for what else was settled: the specification forbids it then
    if (this.form === 'extended') return closing('EXPORT_NAME after EXTENDED_HEADERS');
    const name = data.length > maxStringBytes ? null : readText(data);
    if (name === null) return closing('an export name that is not one');
    const pending = { option: optionType.exportName, exportName: name, infos: [], asked: null };
    return this.#open(pending);
  }

  #open(pending: PendingOption): HandshakeStep {
    const { exportName: name } = pending;
    const contexts = this.#contextsOf(name);
    const client = this.#client;
    return this.#ask(pending, { kind: 'open', name, client, contexts, ...describes(pending) });
  }

  #takeGo(option: number, data: Buffer): HandshakeStep {
    const body = decodeGoBody(data);
    if (!body) return refuse(option, 'the data are not an export name and a list of numbers');
    const { name, infos } = body;
    const pending = { option, exportName: name, infos, asked: null };
    if (option === optionType.info)
      return this.#ask(pending, { kind: 'info', name, ...describes(pending) });
    return this.#open(pending);
  }

  #takeMetaContext(option: number, data: Buffer): HandshakeStep {
    const isSet = option === optionType.setMetaContext;
    if (isSet) this.#set = null;
    if (this.form === 'simple') {
      return refuse(option, 'needs STRUCTURED_REPLY or EXTENDED_HEADERS first');
    }
    const body = decodeMetaContextBody(data);
    if (!body) return refuse(option, 'the data are not an export name and a list of queries');
    if (!body.queries.every((query) => query.includes(':'))) {
      return refuse(option, 'a query begins with a namespace and a colon');
    }
    const { queries } = body;
    if (isSet) this.#client = identityIn(queries);
    const asked = askedContexts(queries, isSet);
    const { dirtySince } = asked;
    const most = this.#limits.metaContexts;
    if (isSet && dirtySince.length >= most) {
      return refuse(
        option,
        `at most ${most} contexts on one connection`,
        optionReplyType.errTooBig,
      );
    }
    const { name } = body;
    const pending = { option, exportName: name, infos: [], asked };
    if (dirtySince.length === 0) return this.#ask(pending, { kind: 'info', name });
    return this.#ask(pending, { kind: 'snapshots', name, asked: dirtySince });
  }

  /** Tells the machine what it asked for. Call it once per question. */
  answer(answer: HandshakeAnswer): HandshakeStep {
    const pending = this.#pending;
    if (!pending) throw new Error('nothing was asked');
    this.#pending = null;
    const { option } = pending;
    if (answer.kind === 'error') {
      if (option === optionType.exportName) return closing(answer.message);
      const reply = errorReply(option, answer.type, answer.message);
      return step(0, [reply], { kind: 'again' });
    }
    if (answer.kind === 'names') {
      const replies = answer.names.map((name) =>
        encodeOptionReply(option, optionReplyType.server, encodeServerBody(name)),
      );
      return step(0, [...replies, ack(option)], { kind: 'again' });
    }
    if (pending.asked) {
      const names = answer.kind === 'snapshots' ? answer.names : [];
      return this.#contextReplies(pending, pending.asked, names);
    }
    if (answer.kind !== 'export') throw new Error('the answer is not to what was asked');
    if (option === optionType.exportName) {
      this.#exportName = pending.exportName;
      const flags = this.#transmissionFlags(answer.readOnly, false);
      const reply = encodeExportNameReply(answer.sizeBytes, flags, this.#noZeroes);
      return step(0, [reply], { kind: 'transmission' });
    }
    this.#exportName = pending.exportName;
    const kind = option === optionType.go ? 'transmission' : 'again';
    return step(0, this.#infoReplies(pending, answer), { kind });
  }

  #infoReplies(
    { option, infos }: PendingOption,
    { name, sizeBytes, readOnly, description = '' }: HandshakeAnswer & { kind: 'export' },
  ): Buffer[] {
    // INFO tells what GO would, with contexts
    const canFilter = option === optionType.info || this.contexts.length > 0;
    const flags = this.#transmissionFlags(readOnly, canFilter);
    const replies = [encodeInfo({ kind: 'export', sizeBytes, flags })];
    if (infos.includes(infoType.name)) replies.push(encodeInfo({ kind: 'name', text: name }));
    if (infos.includes(infoType.description) && description !== '') {
      replies.push(encodeInfo({ kind: 'description', text: description }));
    }
    if (infos.includes(infoType.blockSize)) {
      const maximum = this.#limits.payloadBytes;
      replies.push(encodeInfo({ kind: 'blockSize', minimum: 1, preferred: 4096, maximum }));
    }
    return [
      ...replies.map((info) => encodeOptionReply(option, optionReplyType.info, info)),
      ack(option),
    ];
  }

  #contextReplies(
    { option, exportName }: PendingOption,
    asked: AskedContexts,
    snapshots: readonly string[],
  ): HandshakeStep {
    const isSet = option === optionType.setMetaContext;
    const contexts = [
      ...(asked.allocation ? [allocationContext] : []),
      ...snapshots.map((snapshot) => dirtyContext(snapshot)),
    ];
    if (isSet) this.#set = { exportName, contexts };
    const replies = contexts.map((name, at) => {
      const body = encodeMetaContextReply({ id: isSet ? at + 1 : 0, name });
      return encodeOptionReply(option, optionReplyType.metaContext, body);
    });
    return step(0, [...replies, ack(option)], { kind: 'again' });
  }

  #transmissionFlags(readOnly: boolean, canFilter: boolean): number {
    return (
      transmissionFlag.hasFlags |
      (readOnly ? transmissionFlag.readOnly : 0) |
      transmissionFlag.sendFlush |
      transmissionFlag.sendFua |
      (readOnly
        ? 0
        : transmissionFlag.sendTrim |
          transmissionFlag.sendWriteZeroes |
          transmissionFlag.sendFastZero) |
      transmissionFlag.canMultiConn |
      transmissionFlag.sendCache |
      // must be clear unless structured replies were negotiated
      (this.form === 'simple' ? 0 : transmissionFlag.sendDf) |
      (this.form === 'extended' && canFilter ? transmissionFlag.blockStatusPayload : 0)
    );
  }
}

function identityIn(queries: readonly string[]): ClientIdentity | null {
  for (const query of queries) {
    const identity = parseClientContext(query);
    if (identity) return identity;
  }
  return null;
}

/** It may take time to find out, so only when it is asked for. */
function describes({ infos }: PendingOption): { describes?: true } {
  return infos.includes(infoType.description) ? { describes: true } : {};
}

function step(used: number, send: Buffer[], next: HandshakeNext): HandshakeStep {
  return { used, send, next };
}

function closing(reason: string): HandshakeStep {
  return step(0, [], { kind: 'close', reason });
}

function ack(option: number): Buffer {
  return encodeOptionReply(option, optionReplyType.ack);
}

function errorReply(option: number, type: number, message: string): Buffer {
  return encodeOptionReply(option, type, Buffer.from(message.slice(0, maxMessageChars), 'utf8'));
}

function refuse(
  option: number,
  message: string,
  type: number = optionReplyType.errInvalid,
): HandshakeStep {
  return step(0, [errorReply(option, type, message)], { kind: 'again' });
}
