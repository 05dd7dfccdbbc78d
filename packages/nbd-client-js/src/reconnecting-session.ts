import { isUnanswered } from './core/reconnect-policy.ts';
import { RequestOrder } from './core/request-order.ts';
import type { OrderedRequest } from './core/request-order.ts';
import { GaveUpError, addressText } from './export-connector.ts';
import type { ExportConnector, Granted } from './export-connector.ts';
import type { NbdClient } from './nbd-client.ts';
import type { NbdClock } from './nbd-clock.ts';
import type { NbdNetwork } from './nbd-network.ts';
import { NbdError } from './nbd-error.ts';
import type { NbdTarget } from './nbd-uri.ts';
import type { ReconnectLimits } from './reconnect-limits.ts';
import { probeServer } from './server-probe.ts';

/** What a request touches and how it is sent; `run` is called again for each new connection. */
export interface RequestPlan<T> {
  /** bytes [start, end) of the export; empty for a FLUSH */
  start: number;
  end: number;
  mutates: boolean;
  /** payload written or read, for the limit */
  heldBytes: number;
  run(client: NbdClient): Promise<T>;
}

interface Pending {
  readonly heldBytes: number;
  readonly sinceMs: number;
  run(client: NbdClient): Promise<unknown>;
  /** Once; later calls do nothing. */
  settle(outcome: { value: unknown } | { error: NbdError }): void;
  /** the caller has given up, but what was sent may still take effect */
  abandoned: boolean;
}

/** One connection from grant to end. */
interface Link extends Granted {
  /** calls of `run` that have not settled */
  running: number;
  /** no longer used; over when nothing runs and the socket is closed */
  broken: NbdError | null;
  closed: boolean;
  /** it ended by itself; the next request finds that out */
  gone: boolean;
}

/** Looks for a byte from the server within `silenceMs`. */
const looksPerSilence = 4;

/**
 * Sends requests over one connection at a time, and what was not answered again over the next.
 * Between two connections there is a moment when nothing is on the wire and every outcome of the
 * old one is known: only then are requests put back and the next connection asked for.
 */
export class ReconnectingSession {
  readonly #connector: ExportConnector;
  readonly #limits: ReconnectLimits;
  readonly #clock: NbdClock;
  readonly #network: NbdNetwork;
  readonly #order = new RequestOrder<Pending>();
  readonly #stop = new AbortController();
  #link: Link | null = null;
  #connecting: Promise<void> | null = null;
  #failure: NbdError | null = null;
  #leaving: Promise<void> | null = null;
  #heldBytes = 0;
  /** connections lost, and time without one (ms), since a request was answered last */
  #losses = 0;
  #disconnectedMs = 0;
  #cancelWatch: (() => void) | null = null;
  #idle: (() => void)[] = [];

  constructor(
    connector: ExportConnector,
    granted: Granted,
    limits: ReconnectLimits,
    { clock, network }: { clock: NbdClock; network: NbdNetwork },
  ) {
    this.#connector = connector;
    this.#limits = limits;
    this.#clock = clock;
    this.#network = network;
    this.#link = linkOf(granted);
  }

  /** Where the export was granted last; null without a connection. */
  get address(): string | null {
    const link = this.#link;
    return link && !link.broken && !link.gone ? addressText(link.address) : null;
  }

  setTargets(targets: readonly NbdTarget[]): void {
    this.#connector.setTargets(targets);
  }

  submit<T>(plan: RequestPlan<T>, signal: AbortSignal | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const refusal = this.#refusal(plan.heldBytes) ?? (signal?.aborted ? aborted(signal) : null);
      if (refusal) {
        reject(refusal);
        return;
      }
      const onAbort = (): void => {
        this.#giveUpOn(request);
        pending.settle({ error: aborted(signal) });
      };
      const pending: Pending = {
        heldBytes: plan.heldBytes,
        sinceMs: this.#clock.monotonicMs(),
        run: (client) => plan.run(client),
        settle: (outcome) => {
          signal?.removeEventListener('abort', onAbort);
          if ('error' in outcome) reject(outcome.error);
          else resolve(outcome.value as T);
        },
        abandoned: false,
      };
      const request = this.#order.add(pending, plan.start, plan.end, plan.mutates);
      this.#heldBytes += plan.heldBytes;
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#pump();
    });
  }

  /** Waits until everything is answered (reconnecting if need be), then says goodbye. */
  leave(): Promise<void> {
    this.#leaving ??= this.#leave();
    return this.#leaving;
  }

  async #leave(): Promise<void> {
    if (this.#order.count > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
    const link = this.#link;
    if (!this.#failure && link && !link.broken) {
      this.#failure = closedHere();
      await link.client.disconnect();
    }
    await this.close();
  }

  /** At once; what is not answered rejects. Works twice. */
  async close(): Promise<void> {
    this.#fail(closedHere());
    const link = this.#link;
    await Promise.all([link?.client.close(), this.#connecting]);
  }

  #refusal(heldBytes: number): NbdError | null {
    if (this.#failure) return this.#failure;
    if (this.#leaving) return new NbdError('DISCONNECTED', 'the connection is being closed');
    const { maxUnanswered, maxUnansweredBytes } = this.#limits;
    if (this.#order.count >= maxUnanswered) {
      return new NbdError('OVERLOADED', `${maxUnanswered} requests wait already`);
    }
    // one alone is always taken: a single request is bounded by the server's block sizes
    if (this.#order.count > 0 && this.#heldBytes + heldBytes > maxUnansweredBytes) {
      return new NbdError('OVERLOADED', `requests of ${this.#heldBytes} bytes wait already`);
    }
    return null;
  }

  /** The caller wants no answer any more. */
  #giveUpOn(request: OrderedRequest<Pending>): void {
    request.value.abandoned = true;
    // what was sent stays until it is answered, so that nothing that overlaps it goes beside it
    if (request.state === 'sent' && request.mutates) return;
    this.#finish(request);
    this.#pump();
  }

  #finish(request: OrderedRequest<Pending>): void {
    if (request.state === 'done') return;
    this.#order.finish(request);
    this.#heldBytes -= request.value.heldBytes;
    if (this.#order.count > 0) return;
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #pump(): void {
    if (this.#failure) return;
    const link = this.#link;
    if (!link) {
      // without requests there is no hurry: the next one finds a connection
      if (this.#order.count > 0) this.#connecting ??= this.#reconnect();
      return;
    }
    while (!link.broken && this.#order.sentCount < this.#limits.maxInFlight) {
      const request = this.#order.takeReady();
      if (!request) break;
      void this.#send(link, request);
    }
    this.#watch(link);
  }

  /** Never rejects. */
  async #send(link: Link, request: OrderedRequest<Pending>): Promise<void> {
    link.running += 1;
    try {
      const value = await request.value.run(link.client);
      this.#answered(request, { value });
    } catch (thrown) {
      const error = thrown instanceof NbdError ? thrown : unexpected(thrown);
      if (isUnanswered(error)) this.#break(link, error);
      else if (error.code === 'PROTOCOL') this.#fail(error);
      else this.#answered(request, { error });
    }
    link.running -= 1;
    this.#replaceIfOver(link);
    this.#pump();
  }

  #answered(
    request: OrderedRequest<Pending>,
    outcome: { value: unknown } | { error: NbdError },
  ): void {
    // errors made here, as of an aborted read, say nothing of the server
    if ('value' in outcome || outcome.error.code === 'IO') {
      this.#losses = 0;
      this.#disconnectedMs = 0;
    }
    this.#finish(request);
    request.value.settle(outcome);
  }

  #break(link: Link, error: NbdError): void {
    if (link.broken) return;
    link.broken = error;
    this.#stopWatch();
    void link.client.close().then(() => {
      link.closed = true;
      this.#replaceIfOver(link);
      this.#pump();
    });
  }

  /** Puts back what was sent, once nothing of the connection is left. */
  #replaceIfOver(link: Link): void {
    if (this.#link !== link || !link.broken || !link.closed || link.running > 0) return;
    this.#link = null;
    this.#losses += 1;
    for (const request of this.#order.unanswered()) {
      // a request that its caller gave up is not sent again: that it took no effect is allowed
      if (request.value.abandoned) this.#finish(request);
    }
    this.#order.connectionLost();
  }

  /** Never rejects. */
  async #reconnect(): Promise<void> {
    const startMs = this.#clock.monotonicMs();
    try {
      const granted = await this.#connector.connect({
        isFirst: false,
        failures: this.#losses - 1,
        leftMs: this.#limits.giveUpMs - this.#disconnectedMs,
        signal: this.#stop.signal,
      });
      this.#disconnectedMs += this.#clock.monotonicMs() - startMs;
      this.#link = linkOf(granted);
      if (this.#failure) await granted.client.close();
    } catch (thrown) {
      const error = thrown instanceof NbdError ? thrown : unexpected(thrown);
      this.#losses = 1;
      // Those who began to wait may have given up meanwhile, and nothing has failed then. Whoever waits
      // now waits as long as the limit says, and not what was left of it.
      const [oldest] = this.#order.unanswered();
      const nowMs = this.#clock.monotonicMs();
      this.#disconnectedMs = oldest ? nowMs - oldest.value.sinceMs : 0;
      const isOver = oldest && this.#disconnectedMs >= this.#limits.giveUpMs;
      if (!(error instanceof GaveUpError) || isOver) this.#fail(error);
    } finally {
      this.#connecting = null;
    }
    this.#pump();
  }

  /**
   * While requests are out: finds a server that is gone without a word. Looking several times within
   * `silenceMs` finds it little later than that; one look would take up to twice as long.
   */
  #watch(link: Link, quietLooks = 0): void {
    if (this.#cancelWatch || link.broken || this.#order.sentCount === 0) return;
    const seenBytes = link.client.receivedBytes;
    this.#cancelWatch = this.#clock.after(this.#limits.silenceMs / looksPerSilence, () => {
      void this.#look(link, seenBytes, quietLooks + 1);
    });
  }

  /** `looks`: this is so many looks after the last byte was seen. Never rejects. */
  async #look(link: Link, seenBytes: number, looks: number): Promise<void> {
    const isSilent = (): boolean =>
      link.client.receivedBytes === seenBytes && this.#order.sentCount > 0 && !link.broken;
    let quietLooks = isSilent() ? looks : 0;
    if (quietLooks === looksPerSilence) {
      quietLooks = 0;
      const isAlive = await probeServer(link.address, {
        timeoutMs: this.#limits.greetingTimeoutMs,
        clock: this.#clock,
        network: this.#network,
        signal: this.#stop.signal,
      });
      if (!isAlive && isSilent()) {
        this.#connector.avoid(link.address);
        const text = `${addressText(link.address)} does not answer`;
        this.#break(link, new NbdError('DISCONNECTED', text));
      }
    }
    if (link !== this.#link || link.broken) return;
    this.#stopWatch();
    if (!this.#failure) this.#watch(link, quietLooks);
  }

  #stopWatch(): void {
    this.#cancelWatch?.();
    this.#cancelWatch = null;
  }

  /** For good. */
  #fail(error: NbdError): void {
    this.#failure ??= error;
    this.#stopWatch();
    this.#stop.abort();
    for (const request of this.#order.unanswered()) {
      this.#finish(request);
      request.value.settle({ error });
    }
    if (this.#link) this.#break(this.#link, error);
  }
}

function linkOf(granted: Granted): Link {
  const link = { ...granted, running: 0, broken: null, closed: false, gone: false };
  void granted.client.closed.then(() => (link.gone = true));
  return link;
}

function aborted(signal: AbortSignal | undefined): NbdError {
  return new NbdError('ABORTED', 'the request was aborted', { cause: signal?.reason });
}

function closedHere(): NbdError {
  return new NbdError('DISCONNECTED', 'the connection was closed here');
}

function unexpected(thrown: unknown): NbdError {
  return new NbdError('PROTOCOL', `the request could not be handled: ${String(thrown)}`, {
    cause: thrown,
  });
}
