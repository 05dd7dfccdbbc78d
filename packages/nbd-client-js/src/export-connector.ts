import { formatClientContext } from './core/client-identity.ts';
import { backoffMs, exportDifference, isFinalRound, tryOutcome } from './core/reconnect-policy.ts';
import type { ExportFacts } from './core/reconnect-policy.ts';
import { NbdClient } from './nbd-client.ts';
import type { NbdClock } from './nbd-clock.ts';
import type { NbdNetwork } from './nbd-network.ts';
import { NbdError } from './nbd-error.ts';
import type { NbdAddress, NbdTarget } from './nbd-uri.ts';
import type { ReconnectLimits } from './reconnect-limits.ts';

export interface ConnectorOptions {
  /** all of one export; not empty */
  targets: readonly NbdTarget[];
  structuredReplies: boolean;
  extendedHeaders: boolean;
  metaContexts: readonly string[];
  limits: ReconnectLimits;
  clock: NbdClock;
  network: NbdNetwork;
  /** 0 <= chance() < 1 */
  chance: () => number;
  /** said to servers, of the form in `ClientIdentity` */
  clientId: string;
  /** True for a REFUSED after which no other server need be asked. */
  isFinal: (refusal: NbdError) => boolean;
}

export interface Granted {
  client: NbdClient;
  address: NbdAddress;
}

interface Search {
  isFirst: boolean;
  /** failures in a row before this search; above 0 it begins with a pause */
  failures: number;
  /** for all of it (ms) */
  leftMs: number;
  signal: AbortSignal;
}

/** What a search without an end by itself ended with: no connection within the time given. */
export class GaveUpError extends NbdError {}

/** Finds a server that grants the export, among several addresses. */
export class ExportConnector {
  readonly #options: ConnectorOptions;
  #targets: readonly NbdTarget[];
  /** connections asked for: the server ends older ones of this client before it serves a newer */
  #tries = 0;
  /** what the export was when it was granted first */
  #facts: ExportFacts | null = null;
  /** The address that granted last is asked first: an export should not move without need. */
  #preferred = 0;
  /** until when an address that did not greet is left out, by index */
  readonly #avoidUntilMs = new Map<number, number>();
  /** what each address said last, for the error */
  readonly #reasons = new Map<number, { where: string; why: string }>();

  constructor(options: ConnectorOptions) {
    this.#options = options;
    this.#targets = options.targets;
  }

  /** From the next round of tries on; a try that is under way ends by itself. Not empty. */
  setTargets(targets: readonly NbdTarget[]): void {
    const preferred = this.#targets[this.#preferred];
    const isSame = (target: NbdTarget): boolean =>
      preferred !== undefined && addressText(target.address) === addressText(preferred.address);
    this.#preferred = Math.max(0, targets.findIndex(isSame));
    this.#targets = targets;
    this.#avoidUntilMs.clear();
    this.#reasons.clear();
  }

  /**
   * Tries all addresses, one at a time because asking for an export may move it, in rounds with
   * pauses between them. Throws REFUSED (everybody says no; PROTOCOL when nobody
   * speaks NBD), DISCONNECTED (`leftMs` are over),
   * PROTOCOL (the export is not the same any more), ABORTED, INVALID_ARGUMENT.
   */
  async connect(search: Search): Promise<Granted> {
    const { clock, limits, chance } = this.#options;
    const stop = new AbortController();
    let expired = false;
    const abort = (): void => stop.abort(search.signal.reason);
    search.signal.addEventListener('abort', abort, { once: true });
    if (search.signal.aborted) abort();
    const cancelTimer = clock.after(Math.max(0, search.leftMs), () => {
      expired = true;
      stop.abort();
    });
    this.#reasons.clear();
    try {
      for (let failures = search.failures; ; failures += 1) {
        if (failures > 0) {
          const { backoffMinMs, backoffMaxMs } = limits;
          await this.#pause(backoffMs(failures, backoffMinMs, backoffMaxMs, chance()), stop.signal);
        }
        if (stop.signal.aborted) {
          throw expired ? this.#gaveUp(search) : aborted(search.signal);
        }
        const granted = await this.#round(search.isFirst, stop.signal);
        if (granted) return granted;
      }
    } finally {
      cancelTimer();
      search.signal.removeEventListener('abort', abort);
    }
  }

  /** Null when no address granted the export, or the search was stopped. */
  async #round(isFirst: boolean, signal: AbortSignal): Promise<Granted | null> {
    const targets = this.#targets;
    const errors: NbdError[] = [];
    const first = this.#preferred;
    const order = targets.map((_, step) => (first + step) % targets.length);
    const avoided = order.filter((index) => this.#isAvoided(index));
    const asked =
      avoided.length < order.length ? order.filter((index) => !avoided.includes(index)) : order;
    for (const index of asked) {
      if (signal.aborted) return null;
      const target = targets[index];
      if (!target) continue;
      try {
        const client = await this.#try(target, signal);
        if (targets === this.#targets) this.#preferred = index;
        return { client, address: target.address };
      } catch (error) {
        if (!(error instanceof NbdError) || error instanceof ChangedExportError) throw error;
        if (error.code === 'INVALID_ARGUMENT') throw error;
        if (signal.aborted) return null;
        if (error.code === 'REFUSED' && this.#options.isFinal(error)) throw error;
        // those of this round are not asked any more
        if (targets !== this.#targets) return null;
        if (error.code === 'TIMEOUT') this.#avoid(index);
        errors.push(error);
        this.#reasons.set(index, { where: addressText(target.address), why: error.message });
      }
    }
    const [some] = errors;
    if (!some || asked.length < order.length || !isFinalRound(errors.map(tryOutcome), isFirst))
      return null;
    const code = errors.every((error) => error.code === some.code) ? some.code : 'REFUSED';
    throw new NbdError(code, this.#reasonsText(), { optionReply: some.optionReply });
  }

  /** That address went silent: others are asked for a while, if there are any. */
  avoid(address: NbdAddress): void {
    const index = this.#targets.findIndex((target) => target.address === address);
    if (index >= 0) this.#avoid(index);
  }

  #avoid(index: number): void {
    const { clock, limits } = this.#options;
    this.#avoidUntilMs.set(index, clock.monotonicMs() + limits.avoidSilentMs);
  }

  #isAvoided(index: number): boolean {
    return this.#options.clock.monotonicMs() < (this.#avoidUntilMs.get(index) ?? -Infinity);
  }

  async #try(target: NbdTarget, signal: AbortSignal): Promise<NbdClient> {
    const { limits, structuredReplies, extendedHeaders, metaContexts, network, clock } =
      this.#options;
    this.#tries += 1;
    const identity = { id: this.#options.clientId, sequence: [this.#tries] };
    const client = await NbdClient.connect({
      ...target.address,
      exportName: target.exportName,
      ...(target.tls ? { tls: target.tls } : {}),
      structuredReplies,
      extendedHeaders,
      metaContexts: [...metaContexts, formatClientContext(identity)],
      greetingTimeoutMs: limits.greetingTimeoutMs,
      connectTimeoutMs: limits.grantTimeoutMs,
      maxInFlight: limits.maxInFlight,
      network,
      clock,
      signal,
    });
    const { sizeBytes, flags, blockSizes } = client;
    const facts = { sizeBytes, flags, blockSizes, metaContexts: client.metaContexts };
    const difference = this.#facts ? exportDifference(this.#facts, facts) : null;
    if (difference === null && !signal.aborted) {
      this.#facts ??= facts;
      return client;
    }
    await client.close();
    if (difference === null) throw aborted(signal);
    const where = `${JSON.stringify(target.exportName)} at ${addressText(target.address)}`;
    throw new ChangedExportError(
      'PROTOCOL',
      `export ${where} is not the same any more: ${difference}`,
    );
  }

  #pause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        cancel();
        signal.removeEventListener('abort', end);
        resolve();
      };
      const cancel = this.#options.clock.after(ms, end);
      signal.addEventListener('abort', end, { once: true });
      if (signal.aborted) end();
    });
  }

  #gaveUp(search: Search): NbdError {
    const { limits } = this.#options;
    const ms = search.isFirst ? limits.firstGiveUpMs : limits.giveUpMs;
    const reasons = this.#reasonsText();
    const text = `gave up after ${ms} ms without a connection${reasons === '' ? '' : `: ${reasons}`}`;
    return new GaveUpError('DISCONNECTED', text);
  }

  #reasonsText(): string {
    const reasons = [...this.#reasons.values()];
    const [some] = reasons;
    // the same refusal of each server is told once: it is about the export, not about them
    if (some && reasons.every(({ why }) => why === some.why)) {
      return `${reasons.map(({ where }) => where).join(', ')}: ${some.why}`;
    }
    return reasons.map(({ where, why }) => `${where}: ${why}`).join('; ');
  }
}

class ChangedExportError extends NbdError {}

function aborted(signal: AbortSignal): NbdError {
  return new NbdError('ABORTED', 'connecting was aborted', { cause: signal.reason });
}

export function addressText(address: NbdAddress): string {
  if ('path' in address) return address.path;
  return `${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
}
