import {
  allocationContext,
  command,
  encodeClientFlags,
  encodeGoBody,
  encodeMetaContextBody,
  encodeOption,
  encodeStatusFilter,
  optionType,
  requestHeaderBytes,
  writeExtendedRequest,
  writeRequest,
} from 'nbd-client-js';
import { SeededRandom } from '@stor/runtime/testing';
import t from 'tap';
import { RawClient, startServer, until } from './nbd-harness.ts';

/** STOR_SEEDS, STOR_MINUTES: more of them. STOR_FIRST_SEED: from another one, or that one again. */
const minutes = Number(process.env['STOR_MINUTES'] ?? 0);
const seeds = Number(process.env['STOR_SEEDS'] ?? 250);
const firstSeed = Number(process.env['STOR_FIRST_SEED'] ?? 1);
const sizeBytes = 1 << 20;

class Conversation {
  readonly #random: SeededRandom;
  constructor(seed: number) {
    this.#random = new SeededRandom(seed * 7919 + 3);
  }

  below(limit: number): number {
    return Math.floor(this.#random.next() * limit);
  }

  #pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  /** Valid messages in a random order, some of them out of place. */
  messages(): Buffer[] {
    const isExtended = this.below(2) === 0;
    const messages = [encodeClientFlags(this.#pick([3, 3, 3, 1, 0, 0xff]))];
    const body = encodeMetaContextBody({ name: 'db', queries: [allocationContext, 'stor:'] });
    const go = encodeGoBody({ name: this.#pick(['db', 'db', 'db', 'no']), infos: [3, 2, 1, 77] });
    for (let count = this.below(4); count > 0; count--) {
      messages.push(
        this.#pick([
          encodeOption(optionType.list),
          encodeOption(optionType.info, go),
          encodeOption(optionType.listMetaContext, body),
          encodeOption(optionType.starttls),
          encodeOption(4711, Buffer.alloc(this.below(3000))),
        ]),
      );
    }
    messages.push(
      encodeOption(isExtended ? optionType.extendedHeaders : optionType.structuredReply),
    );
    messages.push(encodeOption(optionType.setMetaContext, body));
    messages.push(encodeOption(optionType.go, go));
    for (let count = this.below(30); count > 0; count--) messages.push(this.#request(isExtended));
    return messages;
  }

  #request(isExtended: boolean): Buffer {
    const type = this.#pick([...Object.values(command).filter((one) => one !== 2), 2, 77]);
    let flags = this.below(4) === 0 ? 1 << this.below(6) : 0;
    const length = this.#pick([0, 1, 512, 4096, 70_000, sizeBytes, 2 ** 26]);
    let payload: Buffer | null =
      type === command.write ? Buffer.alloc(Math.min(length, 100_000), 7) : null;
    if (isExtended && type === command.write) flags |= 32;
    if (isExtended && type === command.blockStatus && this.below(2) === 0) {
      flags |= 32;
      payload = encodeStatusFilter({ length, ids: [1, this.below(3)] });
    }
    const header = Buffer.alloc(isExtended ? 32 : requestHeaderBytes);
    const offset = this.#pick([0, 512, sizeBytes - 512, this.below(sizeBytes), 2 ** 50]);
    const fields = {
      type,
      flags,
      cookieHigh: 1,
      cookieLow: this.below(1000),
      offset,
      length: payload ? payload.length : length,
    };
    if (isExtended) writeExtendedRequest(header, 0, fields);
    else writeRequest(header, 0, fields);
    return Buffer.concat([header, payload ?? Buffer.alloc(0)]);
  }

  /** Some bytes are changed, messages dropped, doubled or cut. */
  mutate(messages: Buffer[]): Buffer {
    const kept: Buffer[] = [];
    for (const message of messages) {
      const dice = this.below(60);
      if (dice === 0) continue;
      if (dice === 1) kept.push(message);
      const copy = Buffer.from(message);
      if (dice === 2) copy[this.below(copy.length)] = this.below(256);
      if (dice === 3) kept.push(Buffer.from(this.#random.bytes(this.below(40))));
      kept.push(dice === 4 ? copy.subarray(0, this.below(copy.length)) : copy);
    }
    return Buffer.concat(kept);
  }
}

t.test('whatever a client says, all of it comes back and no byte before GO', async (t) => {
  const { server, exports, port, device } = await startServer(t, { sizeBytes });
  const secret = Buffer.from('only for who was let in');
  device.write({
    offset: 0,
    length: secret.length,
    bytes: secret,
    start: 0,
    retained: true,
    fua: false,
    noHole: false,
    done: () => {},
  });
  const rejections: unknown[] = [];
  const onRejection = (reason: unknown): void => void rejections.push(reason);
  process.on('unhandledRejection', onRejection);
  t.teardown(() => process.off('unhandledRejection', onRejection));
  const endMs = performance.now() + minutes * 60_000;
  let seed = firstSeed;
  for (; seed < firstSeed + seeds || performance.now() < endMs; seed++) {
    const talk = new Conversation(seed);
    const bytes = talk.mutate(talk.messages());
    const openedBefore = exports.opened;
    exports.asked.length = 0;
    const client = new RawClient({ host: '127.0.0.1', port });
    for (let at = 0; at < bytes.length && !client.ended;) {
      const end = Math.min(bytes.length, at + 1 + talk.below(talk.below(4) === 0 ? 40 : 20_000));
      client.send(bytes.subarray(at, end));
      at = end;
      if (talk.below(3) === 0) await new Promise<void>((resolve) => setImmediate(resolve));
    }
    if (talk.below(4) === 0) client.socket.destroy();
    else client.socket.end();
    const got = await client.rest();
    if (exports.opened === openedBefore && got.includes(secret)) t.fail(`seed ${seed}: served`);
    await until(() => server.connectionCount === 0 && exports.released === exports.opened);
    const inFlight = server.stats.exports.get('v-db')?.inFlight ?? 0;
    if (inFlight !== 0 || device.pending !== 0) t.fail(`seed ${seed}: ${inFlight} left`);
  }
  t.same(rejections, []);
  const cases = seed - firstSeed;
  t.comment(`server fuzz: ${cases} conversations from seed ${firstSeed}, ${exports.opened} got in`);
  t.ok(seeds < 100 || exports.opened > cases / 4, `${exports.opened} of ${cases} got in`);
  t.equal(exports.releasedTooEarly, 0);
});
