import { chunkBytes, regionBytes } from '@stor/protocol';
import type { Random } from '@stor/runtime';

import { payloadOf, sectorBytes, type VolumeHistory } from '../checkers/volume-history.ts';
import type { ClientLink, Io, IoOutcome, SimCluster, SimVolume } from '../cluster/sim-cluster.ts';
import { chooseAtBorder, chooseRequest, type Request } from './choose-request.ts';
import type { UnderWay } from './under-way.ts';

export interface ClientCounts {
  ios: number;
  reads: number;
  writes: number;
  zeroes: number;
  trims: number;
  flushes: number;
  fua: number;
  unaligned: number;
  resent: number;
  connects: number;
  refused: number;
}

export interface VolumeClientOptions {
  cluster: SimCluster;
  random: Random;
  volume: SimVolume;
  history: VolumeHistory;
  host: string;
  /** it is one that finds other nodes by itself */
  reconnects: boolean;
  /** it only looks */
  readsOnly: boolean;
  /** requests at a time */
  depth: number;
  counts: ClientCounts;
  /** an error that no promise allows */
  problem: (problem: string) => void;
  /** for who reads along; null when nobody does */
  say: ((text: string) => void) | null;
  /** which node all clients of the volume try first */
  preferred: () => number;
  /** changes of all clients of the volume that are not answered */
  underWay: UnderWay;
}

/** A pause between two rounds of addresses (ms). */
const retryMinMs = 100;
const retrySpreadMs = 400;
/** A node that relays finds out within this that the client of a request has gone (ms). */
const lostMs = 30_000;

/**
 * A client as a reconnecting NBD client is: it finds the node that serves its volume, sends again
 * what was not answered, and tells the history of the volume what it asked and got.
 */
export class VolumeClient {
  lastAnswerMs: number;
  /** its pauses are this much longer: many clients together ask no more than a few */
  slowness = 1;
  /** at most this much between two requests of a burst (ms) */
  burstPauseMs = 0;
  readonly #options: VolumeClientOptions;
  #link: ClientLink | null = null;
  #connecting: Promise<void> | null = null;
  #stopped = false;
  #isAway = false;
  #hurryUntilMs = 0;
  #hushUntilMs = 0;
  #lookUntilMs = 0;
  #changeUntilMs = 0;
  #borderUntilMs = 0;
  #borderKind: 'read' | 'write' | 'zero' = 'read';
  #isResting = false;
  #isHeld = false;
  /** requests that are begun and not over */
  #asked = 0;
  #running = 0;

  constructor(options: VolumeClientOptions) {
    this.#options = options;
    this.lastAnswerMs = options.cluster.scheduler.nowMs;
  }

  /** requests at a time */
  get depth(): number {
    return this.#options.depth;
  }

  start(): void {
    for (let i = 0; i < this.#options.depth; i++) void this.#loop();
    void this.#phases();
  }

  /** Ends after what is under way is answered. */
  async stop(): Promise<boolean> {
    this.#stopped = true;
    const { scheduler } = this.#options.cluster;
    const isOver = await scheduler.until(() => this.#running === 0, 120_000, 50);
    this.#link?.close();
    this.#link = null;
    return isOver;
  }

  /** Closes the connection; the next request opens one, at the node then preferred. */
  leave(): void {
    this.#link?.close();
  }

  /** Begins nothing more, and disconnects when all is answered; false when that is not soon. */
  async hold(withinMs: number): Promise<boolean> {
    this.#isHeld = true;
    const { scheduler } = this.#options.cluster;
    const isStill = await scheduler.until(() => this.#asked === 0, withinMs, 20);
    if (isStill) this.#link?.close();
    else this.goOn();
    return isStill;
  }

  goOn(): void {
    this.#isHeld = false;
  }

  /** Never rests from now on: liveness is being judged. */
  hurry(): void {
    this.#isAway = true;
    this.#isResting = false;
  }

  /** No pauses for so long (ms). */
  burst(ms: number): void {
    this.#hurryUntilMs = this.#options.cluster.scheduler.nowMs + ms;
  }

  /** Begins nothing for so long (ms), not even in a burst. */
  hush(ms: number): void {
    this.#hushUntilMs = this.#options.cluster.scheduler.nowMs + ms;
  }

  /** Mostly asks for one kind over borders of regions for so long (ms). */
  borders(ms: number, kind: 'read' | 'write' | 'zero'): void {
    this.#borderUntilMs = this.#options.cluster.scheduler.nowMs + ms;
    this.#borderKind = kind;
  }

  get host(): string {
    return this.#options.host;
  }

  /** Only reads for so long (ms). */
  lookOnly(ms: number): void {
    this.#lookUntilMs = this.#options.cluster.scheduler.nowMs + ms;
  }

  /** Writes where it would read for so long (ms), if it writes at all. */
  changeOnly(ms: number): void {
    this.#changeUntilMs = this.#options.cluster.scheduler.nowMs + ms;
  }

  /** One request outside of the loops. */
  async once(io: Io): Promise<IoOutcome> {
    this.#running += 1;
    this.lastAnswerMs = this.#options.cluster.scheduler.nowMs;
    try {
      return await this.#untilAnswered(io, true);
    } finally {
      this.#running -= 1;
    }
  }

  /** Such a request beside the loops. */
  async ask(request: Request): Promise<void> {
    this.#running += 1;
    try {
      await this.#request(request);
    } finally {
      this.#running -= 1;
    }
  }

  /** Writes a block to every chunk, then discards region after region. */
  async sweep(): Promise<void> {
    const sectors = Math.floor(this.#options.volume.sizeBytes / sectorBytes);
    this.#running += 1;
    const each = { fua: false, noHole: false };
    for (let from = 0; from < sectors; from += chunkBytes / sectorBytes) {
      await this.#swept({ kind: 'write', from, to: from + 8, ...each });
    }
    for (let from = 0; from < sectors; from += regionBytes / sectorBytes) {
      const to = Math.min(sectors, from + regionBytes / sectorBytes);
      await this.#swept({ kind: 'trim', from, to, ...each });
    }
    this.#running -= 1;
  }

  async #swept(request: Request): Promise<void> {
    while (this.#isHeld) await this.#options.cluster.scheduler.sleep(50);
    this.#asked += 1;
    try {
      await this.#change(request);
    } finally {
      this.#asked -= 1;
    }
  }

  /** Works for some seconds, rests for some, so that regions come to rest and volumes become idle. */
  async #phases(): Promise<void> {
    const { random, cluster } = this.#options;
    while (!this.#stopped) {
      await cluster.scheduler.sleep(4_000 + random.next() * 16_000);
      if (this.#isAway) continue;
      this.#isResting = true;
      const dice = random.next();
      if (dice < 0.15) this.#link?.close();
      await cluster.scheduler.sleep(dice < 0.1 ? 45_000 : 2_000 + random.next() * 18_000);
      this.#isResting = false;
    }
  }

  async #loop(): Promise<void> {
    const { random, cluster } = this.#options;
    this.#running += 1;
    while (!this.#stopped) {
      await this.#pause(this.slowness * random.next() * (random.next() < 0.7 ? 300 : 1_500));
      while ((this.#isHushed || (this.#isResting && !this.#isHurried)) && !this.#stopped) {
        await cluster.scheduler.sleep(40);
      }
      if (this.#stopped) break;
      // a burst in which each waits for nothing but its answer costs more than all the rest of a run
      if (this.#isHurried) await cluster.scheduler.sleep(random.next() * this.burstPauseMs);
      await this.#request(this.#choose());
    }
    this.#running -= 1;
  }

  #choose(): Request {
    const { random, cluster, volume } = this.#options;
    const { nowMs } = cluster.scheduler;
    const isAtBorder = nowMs < this.#borderUntilMs && random.next() < 0.7;
    if (isAtBorder) return chooseAtBorder(random, volume, this.#borderKind);
    return chooseRequest(random, volume, nowMs);
  }

  get #isHushed(): boolean {
    return !this.#isAway && this.#options.cluster.scheduler.nowMs < this.#hushUntilMs;
  }

  get #isHurried(): boolean {
    return this.#options.cluster.scheduler.nowMs < this.#hurryUntilMs;
  }

  /** In steps, as a burst may begin meanwhile. */
  async #pause(ms: number): Promise<void> {
    const { scheduler } = this.#options.cluster;
    const untilMs = scheduler.nowMs + ms;
    while (scheduler.nowMs < untilMs && !this.#isHurried) {
      await scheduler.sleep(Math.min(40, untilMs - scheduler.nowMs + 0.01));
    }
  }

  async #request(request: Request): Promise<void> {
    const { cluster } = this.#options;
    while (this.#isHeld) await cluster.scheduler.sleep(50);
    this.#asked += 1;
    try {
      await this.#requestNow(request);
    } finally {
      this.#asked -= 1;
    }
  }

  async #requestNow(request: Request): Promise<void> {
    const { counts } = this.#options;
    counts.ios += 1;
    if (request.from % 8 !== 0 || request.to % 8 !== 0) counts.unaligned += 1;
    const { nowMs } = this.#options.cluster.scheduler;
    const onlyLooks = nowMs < this.#lookUntilMs;
    if (this.#options.readsOnly || onlyLooks)
      await this.#read(request.from, Math.max(request.to, request.from + 8));
    else if (request.kind === 'flush') await this.#flush();
    else if (request.kind !== 'read') await this.#changeOrRead(request);
    else if (nowMs < this.#changeUntilMs) await this.#changeOrRead({ ...request, kind: 'write' });
    else await this.#read(request.from, request.to);
  }

  /** Where another client's change is not answered, nobody changes anything: see `UnderWay`. */
  async #changeOrRead(request: Request): Promise<void> {
    const { from, to } = request;
    if (!this.#options.underWay.isFree(this, from, to)) await this.#read(from, to);
    else await this.#change(request);
  }

  async #flush(): Promise<void> {
    const { counts, history } = this.#options;
    const startAt = history.now();
    const outcome = await this.#untilAnswered(ioOf('flush', 0, 0, null), true);
    if (outcome !== 'done') return;
    this.#options.say?.(`${this.#options.host} flush of ${startAt} done`);
    counts.flushes += 1;
    history.flushed(startAt);
  }

  async #read(from: number, to: number): Promise<void> {
    const { counts, history } = this.#options;
    const bytes = Buffer.alloc((to - from) * sectorBytes, 0xee);
    const startAt = history.now();
    const outcome = await this.#untilAnswered(ioOf('read', from, to, bytes), false);
    this.#options.say?.(
      `${this.#options.host} read sectors ${from}-${to} ${JSON.stringify(outcome)}`,
    );
    if (outcome !== 'done') return;
    counts.reads += 1;
    history.read(from, to, bytes, startAt);
  }

  async #change(request: Request): Promise<void> {
    const { counts, history, random } = this.#options;
    const { kind, from, to, fua } = request;
    const { underWay, cluster } = this.#options;
    while (!underWay.isFree(this, from, to)) await cluster.scheduler.sleep(5);
    const end = underWay.begin(this, from, to);
    const isZero = kind !== 'write';
    // a trim leaves what is no whole block as it is
    const first = kind === 'trim' ? Math.min(to, Math.ceil(from / 8) * 8) : from;
    const last = kind === 'trim' ? Math.max(first, Math.floor(to / 8) * 8) : to;
    const token = history.begin(first, last, isZero, fua);
    const bytes = isZero ? null : payloadOf(from, to, token.value);
    const io = { ...ioOf(kind, from, to, bytes), fua, noHole: request.noHole };
    // some clients give up: what they sent may or may not have happened
    const { say, host } = this.#options;
    say?.(`${host} ${kind} ${token.value} sectors ${first}-${last} begins`);
    const outcome = await this.#untilAnswered(io, random.next() < 0.85);
    say?.(`${host} ${kind} ${token.value} sectors ${first}-${last} ${JSON.stringify(outcome)}`);
    // the node that had it may not know yet that its client has gone
    if (outcome === 'done') end();
    else cluster.scheduler.at(lostMs, end);
    if (outcome !== 'done') return;
    if (kind === 'write') counts.writes += 1;
    else if (kind === 'zero') counts.zeroes += 1;
    else counts.trims += 1;
    if (fua) counts.fua += 1;
    history.acknowledged(token);
  }

  /** Sends it again over a new connection until it is answered; reads and given-up writes once. */
  async #untilAnswered(io: Io, again: boolean): Promise<IoOutcome> {
    const { counts, cluster, problem } = this.#options;
    for (;;) {
      const link = await this.#connected();
      if (!link) return 'lost';
      if (link.sizeBytes < io.offset + io.length) {
        // the volume has grown since it was opened there
        link.close();
        await cluster.scheduler.sleep(200);
        continue;
      }
      const outcome = await link.submit(io);
      if (outcome === 'done') this.lastAnswerMs = cluster.scheduler.nowMs;
      else if (outcome !== 'lost') {
        problem(`${io.kind} of ${io.length} bytes at ${io.offset} failed: ${outcome.error}`);
      }
      const isChange = io.kind !== 'flush' && io.kind !== 'read';
      if (outcome !== 'lost' || !again || (isChange && !link.mayResend)) return outcome;
      counts.resent += 1;
    }
  }

  async #connected(): Promise<ClientLink | null> {
    while (!this.#link?.isOpen) {
      this.#connecting ??= this.#connect().finally(() => {
        this.#connecting = null;
      });
      await this.#connecting;
      if (this.#stopped && !this.#link?.isOpen && this.#givenUp) return null;
    }
    return this.#link;
  }

  get #givenUp(): boolean {
    return this.#options.cluster.scheduler.nowMs - this.lastAnswerMs > 300_000;
  }

  /** One round over all nodes, and a pause when nobody serves. */
  async #connect(): Promise<void> {
    const { cluster, random, volume, host, counts, preferred, reconnects } = this.#options;
    const { nodes, scheduler } = cluster;
    const first = preferred();
    for (let i = 0; i < nodes.length; i++) {
      const node = (first + i) % nodes.length;
      try {
        this.#link = await cluster.connect(host, node, volume, reconnects);
        counts.connects += 1;
        return;
      } catch {
        counts.refused += 1;
      }
    }
    await scheduler.sleep(retryMinMs + random.next() * retrySpreadMs);
  }
}

export function ioOf(kind: Io['kind'], from: number, to: number, bytes: Buffer | null): Io {
  return {
    kind,
    offset: from * sectorBytes,
    length: (to - from) * sectorBytes,
    bytes,
    fua: false,
    noHole: false,
  };
}
