import { blockBytes, chunkBytes } from '@stor/protocol';
import { SeededRandom } from '@stor/runtime/testing';

import { compareReplicas } from '../checkers/compare-replicas.ts';
import { AgentCluster } from '../cluster/agent-cluster.ts';
import type { ClientLink, SimVolume } from '../cluster/sim-cluster.ts';
import type { SimNode } from '../cluster/sim-node.ts';
import { ioOf } from '../workload/volume-client.ts';

export interface AbsenceOptions {
  seed: number;
  /** so much is written, each block once, while the replica is away: 4/5 of the volume (bytes) */
  changedBytes: number;
  absenceMinutes: number;
  /** how it leaves; who loses power has lost its memory too */
  leaves: 'kill' | 'power';
}

export interface AbsenceReport {
  /** of chunks of which something was written meanwhile */
  changedBytes: number;
  /** on all sockets to and from the node until its replica was in sync, both directions */
  movedBytes: number;
  /** what the primary says it gave to it */
  copiedBytes: number;
  resyncSeconds: number;
  /** the same sockets, for a restart in order in which nothing was written */
  restartMovedBytes: number;
  restartCopiedBytes: number;
  primaryChanges: number;
  checkpoints: number;
  /** replicas that are not equal in the end */
  problems: string[];
}

const requestBytes = 64 * 1024;
/** Longer than any absence here: nobody takes its place (ms). */
const replacementWaitMs = 4 * 3_600_000;
/** Until all is in sync (ms). */
const healthyWithinMs = 600_000;
/** So often during the absence the primary moves, or another node's agent is killed. */
const disturbances = 4;

/**
 * One replica is away for long while clients write, the primary moves, checkpoints come and another
 * node restarts: what its return costs on the wire.
 */
export class AbsenceRun {
  readonly #options: AbsenceOptions;
  readonly #volume: SimVolume;
  readonly #cluster: AgentCluster;
  readonly #random: SeededRandom;
  readonly #counts = { checkpoints: 0, primaryChanges: 0, copiedBytes: 0 };
  /** whose traffic is counted; null: nobody's */
  #counted: SimNode | null = null;
  #movedBytes = 0;
  #version = 0;

  constructor(options: AbsenceOptions) {
    this.#options = options;
    this.#random = new SeededRandom(options.seed);
    this.#volume = { name: 'v0', sizeBytes: options.changedBytes * 1.25, replicas: 3 };
    const cluster = new AgentCluster({
      seed: options.seed,
      nodes: 4,
      volumes: [this.#volume],
      log: (_level, _node, fields, message) => this.#noticed(message, fields),
    });
    this.#cluster = cluster;
    cluster.onServing = () => (this.#counts.primaryChanges += 1);
    cluster.network.onPiece = (from, to, bytes) => {
      const host = this.#counted?.host;
      if (from !== host && to !== host) return;
      if (from.startsWith('host-') && to.startsWith('host-')) this.#movedBytes += bytes.length;
    };
  }

  async run(): Promise<AbsenceReport> {
    await this.#cluster.prepare();
    return this.#cluster.scheduler.drive(() => this.#main());
  }

  #noticed(message: string, fields: object): void {
    const { bytesCopied } = fields as { bytesCopied?: number };
    if (message === 'checkpoint: marks at rest are cleared') this.#counts.checkpoints += 1;
    if (message === 'resync is complete: the replica is in sync') {
      if (this.#counted) this.#counts.copiedBytes += bytesCopied ?? 0;
    }
  }

  async #main(): Promise<AbsenceReport> {
    const cluster = this.#cluster;
    const volume = this.#volume;
    const { scheduler } = cluster;
    await cluster.create();
    await cluster.operate('UpdateVolume', { name: volume.name, policy: { replacementWaitMs } });
    const link = await cluster.connect('client-0', 0, volume, true);
    const chunks = Array.from({ length: volume.sizeBytes / chunkBytes }, (_, chunk) => chunk);
    for (const chunk of chunks) await this.#write(link, chunk);
    await link.submit(ioOf('flush', 0, 0, null));
    await this.#healthy();
    this.#counts.primaryChanges = 0;
    this.#counts.checkpoints = 0;
    const away = this.#secondary();
    if (this.#options.leaves === 'kill') away.kill();
    else away.losePower();
    const changed = shuffled(chunks, this.#random).slice(
      0,
      this.#options.changedBytes / chunkBytes,
    );
    await this.#absence(link, away, changed);
    const during = { ...this.#counts };
    const begunMs = scheduler.nowMs;
    const moved = await this.#countedReturn(away);
    const resyncSeconds = (scheduler.nowMs - begunMs) / 1_000;
    const copiedBytes = this.#counts.copiedBytes;
    const restart = await this.#cleanRestart(away);
    link.close();
    await cluster.detach(volume);
    return {
      changedBytes: changed.length * chunkBytes,
      movedBytes: moved,
      copiedBytes,
      resyncSeconds,
      restartMovedBytes: restart.moved,
      restartCopiedBytes: restart.copied,
      primaryChanges: during.primaryChanges,
      checkpoints: during.checkpoints,
      problems: await compareReplicas(cluster, volume, true),
    };
  }

  /** Writes go on for the whole time, so that checkpoints clear marks between them. */
  async #absence(link: ClientLink, away: SimNode, changed: number[]): Promise<void> {
    const { scheduler } = this.#cluster;
    const stepMs = (this.#options.absenceMinutes * 60_000) / changed.length;
    const disturbEvery = Math.floor(changed.length / (disturbances + 1));
    const startMs = scheduler.nowMs;
    for (const [i, chunk] of changed.entries()) {
      await this.#write(link, chunk);
      if (i % 8 === 0) await link.submit(ioOf('flush', 0, 0, null));
      if (i > 0 && i % disturbEvery === 0) await this.#disturb(away, i / disturbEvery);
      await scheduler.sleep(startMs + (i + 1) * stepMs - scheduler.nowMs);
    }
  }

  /** By turns the primary moves in order, and the agent of the primary is killed. */
  async #disturb(away: SimNode, turn: number): Promise<void> {
    const cluster = this.#cluster;
    const holder = cluster.nodes[cluster.holderOf(this.#volume)];
    const others = cluster.nodes.filter((node) => node !== away && node !== holder);
    const other = others[turn % others.length];
    if (turn % 2 === 1 && other) {
      await cluster.operate('MovePrimary', { name: this.#volume.name, node: other.host });
    } else if (holder && holder !== away) {
      holder.kill();
      await cluster.scheduler.sleep(2_000);
      holder.start();
    }
  }

  /** Its agent ends in order and comes back; nothing is written meanwhile. */
  async #cleanRestart(node: SimNode): Promise<{ moved: number; copied: number }> {
    const cluster = this.#cluster;
    const before = this.#counts.copiedBytes;
    await cluster.scheduler.sleep(20_000);
    await cluster.stop(node);
    await cluster.scheduler.sleep(5_000);
    const moved = await this.#countedReturn(node);
    return { moved, copied: this.#counts.copiedBytes - before };
  }

  /** Starts a node; what goes over its sockets until all is healthy. */
  async #countedReturn(node: SimNode): Promise<number> {
    this.#counted = node;
    this.#movedBytes = 0;
    node.start();
    await this.#cluster.scheduler.sleep(100);
    await this.#healthy();
    this.#counted = null;
    return this.#movedBytes;
  }

  async #healthy(): Promise<void> {
    const { scheduler } = this.#cluster;
    const endMs = scheduler.nowMs + healthyWithinMs;
    for (;;) {
      const why = await this.#cluster.unhealthy(this.#volume);
      if (why === null) return;
      if (scheduler.nowMs > endMs) throw new Error(`not healthy in time: ${why}`);
      await scheduler.sleep(250);
    }
  }

  /** A node with a replica that is not the primary. */
  #secondary(): SimNode {
    const cluster = this.#cluster;
    const holder = cluster.holderOf(this.#volume);
    const { inSync } = cluster.committed(this.#volume);
    const index = inSync.map((id) => cluster.nodeOfReplica(id)).find((node) => node !== holder);
    const node = cluster.nodes[index ?? -1];
    if (!node) throw new Error('no secondary');
    return node;
  }

  /** A whole chunk; no two blocks that are ever written are the same. */
  async #write(link: ClientLink, chunk: number): Promise<void> {
    for (let at = 0; at < chunkBytes; at += requestBytes) {
      const bytes = Buffer.alloc(requestBytes, this.#version & 0xff);
      for (let block = 0; block < requestBytes; block += blockBytes) {
        bytes.writeUInt32LE(++this.#version, block);
      }
      const offset = chunk * chunkBytes + at;
      const from = offset / 512;
      const outcome = await link.submit(ioOf('write', from, from + requestBytes / 512, bytes));
      if (outcome !== 'done') throw new Error(`a write failed: ${JSON.stringify(outcome)}`);
    }
  }
}

function shuffled(values: readonly number[], random: SeededRandom): number[] {
  const left = [...values];
  for (let i = left.length - 1; i > 0; i--) {
    const j = Math.floor(random.next() * (i + 1));
    [left[i], left[j]] = [left[j] ?? 0, left[i] ?? 0];
  }
  return left;
}
