import { NbdError } from '../nbd-error.ts';
import {
  defaultMaxPayloadBytes,
  handshakeFlag,
  infoType,
  maxStringBytes,
  optionReplyType,
  optionType,
  type HeaderForm,
} from './constants.ts';
import {
  decodeGreeting,
  decodeInfo,
  decodeMetaContextReply,
  decodeOptionReplyHeader,
  decodeServerBody,
  encodeClientFlags,
  encodeGoBody,
  encodeMetaContextBody,
  encodeOption,
  exportNameReplyBytes,
  exportNameZeroBytes,
  greetingBytes,
  optionReplyHeaderBytes,
} from './handshake-codec.ts';
import { MetaContextAnswers } from './meta-context-answers.ts';
import { readText, readU64 } from './wire-integers.ts';

/** Bytes of one option reply that are accepted: two strings of the largest size fit. */
export const maxOptionReplyBytes = 2 * maxStringBytes + 64;
/** Names that a list may have. */
export const maxListedExports = 100_000;
/** Contexts that a server may offer for one export. */
export const maxListedContexts = 16_384;
/** Replies to any other option: information kinds and contexts. */
const maxRepliesPerOption = 256;

/** Bytes. What a server did not say has the protocol's defaults. */
export interface BlockSizes {
  minimum: number;
  preferred: number;
  maximum: number;
}

export interface HandshakeWishes {
  exportName: string;
  structuredReplies: boolean;
  /** asked for before structured replies, which they include */
  extendedHeaders?: boolean;
  metaContexts: readonly string[];
  /** true: ask for the names of all exports and leave */
  listOnly: boolean;
  /** ask which contexts of the export match `metaContexts`, all of them without any, and leave */
  listContexts?: boolean;
  /** ask for the facts of the export without opening it, and leave */
  infoOnly?: boolean;
  /** STARTTLS first; `allow`: go on without when the server has no TLS */
  tls?: 'require' | 'allow';
}

export interface HandshakeResult {
  sizeBytes: number;
  /** `transmissionFlag` bits */
  flags: number;
  blockSizes: BlockSizes;
  /** the server's own name of the export, and what it says about it; null when it did not */
  canonicalName: string | null;
  description: string | null;
  form: HeaderForm;
  /** context name -> id in block status chunks */
  metaContexts: Map<string, number>;
  /** only when listing */
  exportNames: string[];
}

type Step =
  | 'greeting'
  | 'starttls'
  | 'tls'
  | 'extended'
  | 'structured'
  | 'meta'
  | 'listMeta'
  | 'info'
  | 'go'
  | 'list'
  | 'exportName'
  | 'over';

/**
 * The client's side of the fixed newstyle handshake: bytes in, bytes out, no I/O. One option is
 * outstanding at a time, as the specification demands.
 */
export class ClientHandshake {
  /** Bytes to send; the owner takes and empties it after each call. */
  readonly output: Buffer[] = [];
  /** Set when the handshake is over. */
  result: HandshakeResult | null = null;

  readonly #wishes: HandshakeWishes;
  #step: Step = 'greeting';
  #fixed = false;
  #noZeroes = false;
  #replies = 0;
  #sizeBytes = -1;
  #flags = 0;
  #blockSizes: BlockSizes = { minimum: 1, preferred: 4096, maximum: defaultMaxPayloadBytes };
  #canonicalName: string | null = null;
  #description: string | null = null;
  #form: HeaderForm = 'simple';
  readonly #contexts: MetaContextAnswers;
  #names: string[] = [];

  constructor(wishes: HandshakeWishes) {
    this.#wishes = wishes;
    this.#contexts = new MetaContextAnswers(wishes.metaContexts);
  }

  /**
   * Takes what it can of `bytes[start, end)` and says how much. Throws REFUSED or PROTOCOL.
   */
  receive(bytes: Buffer, start: number, end: number): number {
    let at = start;
    while (this.#step !== 'over' && this.#step !== 'tls') {
      const used = this.#receiveOne(bytes, at, end);
      if (used === 0) break;
      at += used;
    }
    return at - start;
  }

  /** The server waits for TLS: begin it, then call `secured`. What it sent behind its answer is not its own. */
  get needsTls(): boolean {
    return this.#step === 'tls';
  }

  /** Everything is asked over TLS from now on. */
  secured(): void {
    this.#begin();
  }

  #receiveOne(bytes: Buffer, at: number, end: number): number {
    if (this.#step === 'greeting') {
      if (end - at < greetingBytes) return 0;
      this.#greet(decodeGreeting(bytes, at));
      return greetingBytes;
    }
    if (this.#step === 'exportName') {
      const needed = exportNameReplyBytes + (this.#noZeroes ? 0 : exportNameZeroBytes);
      if (end - at < needed) return 0;
      this.#takeSize(readU64(bytes, at), bytes.readUInt16BE(at + 8));
      this.#finish();
      return needed;
    }
    if (end - at < optionReplyHeaderBytes) return 0;
    const header = decodeOptionReplyHeader(bytes, at);
    if (!header) throw broken('option reply with a wrong magic');
    if (header.option !== this.#option()) throw broken(`reply to option ${header.option}`);
    if (header.length > maxOptionReplyBytes) {
      throw broken(`option reply of ${header.length} bytes`);
    }
    const total = optionReplyHeaderBytes + header.length;
    if (end - at < total) return 0;
    this.#takeReply(header.type, bytes.subarray(at + optionReplyHeaderBytes, at + total));
    return total;
  }

  #greet(flags: number | null): void {
    if (flags === null) throw broken('no newstyle greeting; is this an NBD server?');
    this.#fixed = (flags & handshakeFlag.fixedNewstyle) !== 0;
    this.#noZeroes = (flags & handshakeFlag.noZeroes) !== 0;
    this.output.push(
      encodeClientFlags(flags & (handshakeFlag.fixedNewstyle | handshakeFlag.noZeroes)),
    );
    const { tls } = this.#wishes;
    if (tls && this.#fixed) this.#ask('starttls');
    else if (tls === 'require') {
      throw new NbdError('REFUSED', 'the server has no TLS: it is too old for options');
    } else this.#begin();
  }

  #begin(): void {
    if (this.#wishes.listOnly) {
      if (!this.#fixed) throw broken('the server cannot list its exports');
      this.#ask('list');
    } else if (this.#wishes.listContexts) {
      if (!this.#fixed) throw broken('the server cannot list its contexts');
      this.#ask('structured');
    } else if (!this.#fixed) {
      if (this.#wishes.infoOnly) throw broken('the server cannot tell about its exports');
      this.#ask('exportName');
    } else if (this.#wishes.structuredReplies) {
      this.#ask(this.#wishes.extendedHeaders ? 'extended' : 'structured');
    } else {
      this.#askForExport();
    }
  }

  #askForExport(): void {
    this.#ask(this.#wishes.infoOnly ? 'info' : 'go');
  }

  #askForContexts(): void {
    if (this.#wishes.listContexts) this.#ask('listMeta');
    else if (this.#wishes.metaContexts.length > 0 && !this.#wishes.infoOnly) this.#ask('meta');
    else this.#askForExport();
  }

  #option(): number {
    switch (this.#step) {
      case 'starttls':
        return optionType.starttls;
      case 'extended':
        return optionType.extendedHeaders;
      case 'structured':
        return optionType.structuredReply;
      case 'info':
        return optionType.info;
      case 'meta':
        return optionType.setMetaContext;
      case 'listMeta':
        return optionType.listMetaContext;
      case 'list':
        return optionType.list;
      default:
        return optionType.go;
    }
  }

  #ask(step: Step): void {
    this.#step = step;
    this.#replies = 0;
    const { exportName, metaContexts } = this.#wishes;
    switch (step) {
      case 'starttls':
      case 'extended':
      case 'structured':
      case 'list':
        this.output.push(encodeOption(this.#option()));
        return;
      case 'meta':
      case 'listMeta':
        this.output.push(
          encodeOption(
            this.#option(),
            encodeMetaContextBody({ name: exportName, queries: [...metaContexts] }),
          ),
        );
        return;
      case 'info':
      case 'go': {
        // to find out what is for people may take time, so a connection does not wait for it
        const infos =
          step === 'info'
            ? [infoType.name, infoType.description, infoType.blockSize]
            : [infoType.blockSize];
        this.output.push(encodeOption(this.#option(), encodeGoBody({ name: exportName, infos })));
        return;
      }
      case 'exportName':
        this.output.push(encodeOption(optionType.exportName, Buffer.from(exportName, 'utf8')));
        return;
      default:
        return;
    }
  }

  #takeReply(type: number, body: Buffer): void {
    this.#replies += 1;
    if (this.#replies > this.#maxReplies()) throw broken('too many replies to one option');
    if (type >= 0x80000000) {
      this.#takeError(type, readText(body) ?? '');
    } else if (type === optionReplyType.ack) {
      this.#takeAck();
    } else if (type === optionReplyType.server && this.#step === 'list') {
      const name = decodeServerBody(body);
      if (name === null) throw broken('export name that is not one');
      this.#names.push(name);
    } else if (type === optionReplyType.metaContext && this.#asksForContexts()) {
      const context = decodeMetaContextReply(body);
      if (!context) throw broken('metadata context that is not one');
      const wrong = this.#contexts.take(context, this.#step === 'meta' ? 'set' : 'list');
      if (wrong !== null) throw broken(wrong);
    } else if (type === optionReplyType.info && (this.#step === 'go' || this.#step === 'info')) {
      this.#takeInfo(body);
    } else {
      throw broken(`reply of type ${type} to option ${this.#option()}`);
    }
  }

  #maxReplies(): number {
    if (this.#step === 'list') return maxListedExports + 1;
    return this.#step === 'listMeta' ? maxListedContexts + 1 : maxRepliesPerOption;
  }

  #asksForContexts(): boolean {
    return this.#step === 'meta' || this.#step === 'listMeta';
  }

  #takeInfo(body: Buffer): void {
    const info = decodeInfo(body);
    if (!info) throw broken('information that cannot be read');
    if (info.kind === 'export') this.#takeSize(info.sizeBytes, info.flags);
    if (info.kind === 'name') this.#canonicalName = info.text;
    if (info.kind === 'description') this.#description = info.text;
    if (info.kind === 'blockSize') {
      const { minimum, preferred, maximum } = info;
      const right =
        minimum > 0 && minimum <= 65536 && (minimum & (minimum - 1)) === 0 && preferred >= minimum;
      if (!right || maximum < minimum) throw broken('block sizes that cannot be');
      this.#blockSizes = { minimum, preferred, maximum };
    }
  }

  #takeSize(sizeBytes: number, flags: number): void {
    if (!Number.isSafeInteger(sizeBytes)) throw broken('an export above 2^53 bytes');
    this.#sizeBytes = sizeBytes;
    this.#flags = flags;
  }

  #takeAck(): void {
    switch (this.#step) {
      case 'starttls':
        this.#step = 'tls';
        return;
      case 'extended':
        this.#form = 'extended';
        this.#askForContexts();
        return;
      case 'structured':
        this.#form = 'structured';
        this.#askForContexts();
        return;
      case 'meta':
        this.#ask('go');
        return;
      case 'list':
      case 'listMeta':
        this.output.push(encodeOption(optionType.abort));
        this.#finish();
        return;
      case 'info':
        this.output.push(encodeOption(optionType.abort));
        this.#finishWithSize();
        return;
      default:
        this.#finishWithSize();
    }
  }

  #finishWithSize(): void {
    if (this.#sizeBytes < 0) throw broken('no size of the export');
    this.#finish();
  }

  #takeError(type: number, message: string): void {
    const { tls } = this.#wishes;
    if (this.#step === 'starttls' && tls === 'allow' && type !== optionReplyType.errShutdown) {
      this.#begin();
      return;
    }
    if (type === optionReplyType.errTlsReqd || this.#step === 'starttls') {
      this.#refused(type, message);
    }
    // an older server that lacks an extension: go on without it
    if (this.#step === 'extended' && type !== optionReplyType.errShutdown) {
      this.#ask('structured');
      return;
    }
    if (this.#step === 'structured' && !this.#wishes.listContexts) {
      this.#askForExport();
      return;
    }
    // but one that cannot tell now may well know contexts: then it is no answer about them
    if (this.#step === 'meta' && type !== optionReplyType.errShutdown) {
      this.#contexts.clear();
      this.#ask('go');
      return;
    }
    // with extended headers a server must have GO, and a client must not ask for EXPORT_NAME
    if (this.#step === 'go' && type === optionReplyType.errUnsup && this.#form !== 'extended') {
      this.#ask('exportName');
      return;
    }
    this.#refused(type, message);
  }

  #refused(type: number, message: string): never {
    this.output.push(encodeOption(optionType.abort));
    const what = this.#askedFor();
    const why = message === '' ? '' : `: ${message}`;
    throw new NbdError('REFUSED', `the server will not ${what} (${replyErrorName(type)})${why}`, {
      optionReply: type,
    });
  }

  /** For the error. */
  #askedFor(): string {
    const name = JSON.stringify(this.#wishes.exportName);
    if (this.#step === 'starttls') return 'begin TLS';
    if (this.#step === 'list') return 'list its exports';
    return this.#wishes.listContexts
      ? `list the contexts of export ${name}`
      : `open export ${name}`;
  }

  #finish(): void {
    this.#step = 'over';
    this.result = {
      sizeBytes: this.#sizeBytes,
      flags: this.#flags,
      blockSizes: this.#blockSizes,
      canonicalName: this.#canonicalName,
      description: this.#description,
      form: this.#form,
      metaContexts: this.#contexts.ids,
      exportNames: this.#names,
    };
  }
}

/** `ERR_POLICY` for 2^31 + 2. */
function replyErrorName(type: number): string {
  const entry = Object.entries(optionReplyType).find(([, value]) => value === type);
  if (!entry) return `error ${type - 0x80000000}`;
  return entry[0].replace(/([A-Z])/g, '_$1').toUpperCase();
}

function broken(what: string): NbdError {
  return new NbdError('PROTOCOL', `the server broke the NBD handshake: ${what}`);
}
