import { StorError } from '@stor/protocol';
import type { NodeId, VolumeId } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { AgentPort } from '../agent-port.ts';
import type { ClusterStore } from '../cluster-store.ts';
import { progressed, scrubSentence, scrubSettings } from '../core/scrub/scrub-record.ts';
import type { ScrubRecord } from '../core/scrub/scrub-record.ts';
import type { Versioned } from '../resources/cluster-state.ts';
import { scrubKey } from '../resources/keys.ts';
import { encodeRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import type { EventLog } from './event-log.ts';

/** How often the primaries of this node are told what to scrub, and asked how far they are (ms). */
const orderMs = 2_000;
/** How far a scrub is is written so often (ms): as much is done again after a crash. */
const writeMs = 10_000;

interface DriverOptions {
  store: ClusterStore;
  cache: StateCache;
  agent: AgentPort;
  events: EventLog;
  nodeId: NodeId;
  agentInstance: string;
  clock: Clock;
  logger: Logger;
}

/**
 * Has the volumes that are attached here scrubbed as their records say, and writes into the records
 * how far they are. Level-triggered: it tells the same again and again, and a primary that hears
 * nothing for a while stops.
 */
export class ScrubDriver {
  readonly #options: DriverOptions;
  readonly #working = new Map<VolumeId, Promise<void>>();
  /** by volume and run */
  readonly #ordered = new Set<string>();
  #cancel: () => void = () => {};
  #closed = false;

  constructor(options: DriverOptions) {
    this.#options = options;
    this.#tick();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#cancel();
    await Promise.all(this.#working.values());
  }

  #tick(): void {
    this.#cancel = this.#options.clock.after(orderMs, () => {
      this.#tick();
      this.#orderAll();
    });
  }

  /** Something has changed: what is new is told at once. */
  look(): void {
    for (const [volumeId, scrub] of this.#options.cache.state.scrubs) {
      const { run } = scrub.value;
      if (run && !this.#ordered.has(orderKey(volumeId, run))) this.#orderSoon(volumeId, scrub);
    }
  }

  #orderAll(): void {
    const { scrubs } = this.#options.cache.state;
    this.#ordered.clear();
    for (const [volumeId, scrub] of scrubs) this.#orderSoon(volumeId, scrub);
  }

  /** One at a time for each volume; what it finds it writes. */
  #orderSoon(volumeId: VolumeId, scrub: Versioned<ScrubRecord>): void {
    const epoch = this.#epochHere(volumeId);
    const { run } = scrub.value;
    if (epoch === null || !run || this.#working.has(volumeId) || this.#closed) return;
    const work = this.#order(volumeId, epoch, scrub)
      .catch((error: unknown) => {
        const { message } = StorError.from(error);
        this.#options.logger.debug({ volumeId, error: message }, 'a scrub was not ordered');
      })
      .then(() => {
        this.#working.delete(volumeId);
      });
    this.#working.set(volumeId, work);
  }

  /** The epoch of this process's attachment; null: it has none. */
  #epochHere(volumeId: VolumeId): number | null {
    const { cache, nodeId, agentInstance } = this.#options;
    const attachment = cache.state.volumes.get(volumeId)?.value.status.attachment;
    if (attachment?.nodeId !== nodeId || attachment.agentInstance !== agentInstance) return null;
    return attachment.epoch;
  }

  async #order(volumeId: VolumeId, epoch: number, scrub: Versioned<ScrubRecord>): Promise<void> {
    const { agent, cache, clock } = this.#options;
    const { run } = scrub.value;
    if (!run) return;
    const { id: runId, position, counts, paused } = run;
    const { rateBytesPerSecond } = scrubSettings(cache.state);
    const progress = await agent.scrub({
      volumeId,
      epoch,
      runId,
      position,
      counts,
      paused,
      rateBytesPerSecond,
    });
    if (!progress) return;
    this.#ordered.add(orderKey(volumeId, run));
    const nowWallMs = clock.wallMs();
    const isOver = progress.state === 'finished';
    const isNews = progress.message !== run.message || run.seenAtMs === 0;
    const hasMoved = progress.counts.bytes !== run.counts.bytes;
    const isTime = Math.abs(nowWallMs - run.seenAtMs) >= writeMs;
    if (!isOver && !isNews && !(hasMoved && isTime)) return;
    const record = progressed(scrub.value, progress, nowWallMs);
    if (record) await this.#write(scrub, record);
  }

  /** A record that has changed meanwhile is looked at again. */
  async #write(scrub: Versioned<ScrubRecord>, record: ScrubRecord): Promise<void> {
    const { store, cache, events } = this.#options;
    const key = scrubKey(record.volumeId);
    const { succeeded } = await store.transact({
      compare: [{ key, modRevision: scrub.modRevision }],
      operations: [{ type: 'put', key, value: encodeRecord(record) }],
    });
    const result = record.run ? undefined : record.history.at(-1);
    if (!succeeded || !result) return;
    const { found, repaired, diverged } = result.counts;
    const name = cache.state.volumes.get(record.volumeId)?.value.metadata.name ?? record.volumeId;
    events.note({
      type: found + repaired + diverged > 0 ? 'warning' : 'normal',
      reason: 'scrub-finished',
      object: { kind: 'volume', id: record.volumeId },
      message: scrubSentence(name, result),
    });
  }
}

function orderKey(volumeId: VolumeId, run: { id: string; paused: boolean }): string {
  return `${volumeId} ${run.id} ${run.paused}`;
}
