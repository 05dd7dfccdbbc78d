import { createHash, timingSafeEqual } from 'node:crypto';
import { StorError } from '@stor/protocol';
import type { JoinToken } from '@stor/protocol';
import type { Clock, Logger, Random } from '@stor/runtime';
import type { ClusterStore, Compare, KeyValue, Operation } from '../cluster-store.ts';
import {
  checkTokenWish,
  defaultTokenMs,
  maxTokens,
  overTokenKeptMs,
  splitToken,
  tokenText,
  unknownToken,
  usedToken,
  type TokenRecord,
} from '../core/members/token-rules.ts';
import { tokenKey, tokensPrefix } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';

const idBytes = 4;
const secretBytes = 24;

const hashOf = (secret: string): Buffer => createHash('sha256').update(secret).digest();
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

/** Tokens by which nodes join: each is good for one node, unless it was made for more. */
export class TokenService {
  readonly #store: ClusterStore;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;

  constructor(options: { store: ClusterStore; clock: Clock; random: Random; logger: Logger }) {
    this.#store = options.store;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#logger = options.logger;
  }

  /** See StorApi.createToken. 0: the default. */
  async create(request: {
    ttlMs: number;
    uses: number;
  }): Promise<{ token: string; info: JoinToken }> {
    const ttlMs = request.ttlMs === 0 ? defaultTokenMs : request.ttlMs;
    const uses = request.uses === 0 ? 1 : request.uses;
    checkTokenWish(ttlMs, uses);
    const nowMs = this.#clock.wallMs();
    const dropped = await this.#tidy(nowMs);
    const id = hex(this.#random.bytes(idBytes));
    const secret = hex(this.#random.bytes(secretBytes));
    const record: TokenRecord = {
      id,
      hash: hashOf(secret).toString('hex'),
      createdAtMs: nowMs,
      expiresAtMs: nowMs + ttlMs,
      usesLeft: uses,
      usedBy: [],
    };
    const key = tokenKey(id);
    const { succeeded } = await this.#store.transact({
      compare: [{ key, modRevision: 0 }],
      operations: [{ type: 'put', key, value: encodeRecord(record) }, ...dropped],
    });
    if (!succeeded) throw new StorError('CONFLICT', 'a token of this id was made just now: repeat');
    this.#logger.info({ token: id, ttlMs, uses }, 'token made');
    return { token: tokenText(id, secret), info: shown(record) };
  }

  async list(): Promise<JoinToken[]> {
    const { items } = await this.#store.list(tokensPrefix);
    const tokens = items.map((item) => shown(decodeToken(item)));
    return tokens.sort((a, b) => a.createdAtMs - b.createdAtMs || (a.id < b.id ? -1 : 1));
  }

  /** NOT_FOUND */
  async remove(id: string): Promise<void> {
    // what people have at hand may be the whole token
    const [name = ''] = id.trim().split('.');
    const isId = /^[0-9a-f]{8}$/.test(name);
    const item = isId ? await this.#store.get(tokenKey(name)) : null;
    if (!item) {
      const said = JSON.stringify(name.slice(0, 64));
      throw new StorError('NOT_FOUND', `there is no token ${said}: see "storctl token ls"`);
    }
    const { key } = item;
    await this.#store.transact({ compare: [], operations: [{ type: 'delete', key }] });
    this.#logger.info({ token: name }, 'token removed');
  }

  /**
   * What a transaction must hold and do so that the node uses the token, or nothing when it has used
   * it before. UNAUTHENTICATED.
   */
  async use(
    text: string,
    nodeId: string,
  ): Promise<{ compare: Compare[]; operations: Operation[] }> {
    const { id, secret } = splitToken(text);
    const key = tokenKey(id);
    const item = await this.#store.get(key);
    // compared also when there is none, so that the time says nothing of ids
    const known = item ? decodeToken(item) : null;
    const expected = Buffer.from(known?.hash ?? hex(new Uint8Array(32)), 'hex');
    const given = hashOf(secret);
    const fits = expected.length === given.length && timingSafeEqual(expected, given);
    if (!known || !item || !fits) {
      this.#logger.warn({ nodeId, token: id }, 'a node wants to join with a wrong token');
      throw unknownToken();
    }
    const used = usedToken(known, nodeId, this.#clock.wallMs());
    const compare = [{ key, modRevision: item.modRevision }];
    const value = used && encodeRecord(used);
    return { compare, operations: value ? [{ type: 'put', key, value }] : [] };
  }

  /** Removal of those that are over for long. FAILED_PRECONDITION when there are too many. */
  async #tidy(nowMs: number): Promise<Operation[]> {
    const { items } = await this.#store.list(tokensPrefix);
    const over = items.filter((item) => decodeToken(item).expiresAtMs + overTokenKeptMs < nowMs);
    if (items.length - over.length >= maxTokens) {
      throw new StorError(
        'FAILED_PRECONDITION',
        `there are ${items.length} tokens already: remove some with "storctl token rm"`,
      );
    }
    return over.slice(0, 100).map(({ key }) => ({ type: 'delete', key }));
  }
}

function decodeToken({ key, value }: KeyValue): TokenRecord {
  try {
    return JSON.parse(new TextDecoder().decode(value)) as TokenRecord;
  } catch (error) {
    throw new StorError('INTERNAL', `${key} holds no token`, { cause: error });
  }
}

function shown({ id, createdAtMs, expiresAtMs, usesLeft, usedBy }: TokenRecord): JoinToken {
  return { id, createdAtMs, expiresAtMs, usesLeft, usedBy };
}
