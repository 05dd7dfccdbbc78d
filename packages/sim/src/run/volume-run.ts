import type { MemoryJudge } from '../checkers/memory-judge.ts';
import type { VolumeHistory } from '../checkers/volume-history.ts';
import type { SimVolume } from '../cluster/sim-cluster.ts';
import type { FaultLoad } from '../faults/fault-scene.ts';
import type { VolumeClient } from '../workload/volume-client.ts';

/** A volume of a run: its clients, and what is known of it. */
export interface VolumeRun {
  volume: SimVolume;
  history: VolumeHistory;
  judge: MemoryJudge;
  clients: VolumeClient[];
  /** the node that its clients try first */
  preferred: number;
}

/** What faults may ask of the clients. */
export function loadOf(volumes: readonly VolumeRun[], clientHosts: string[]): FaultLoad {
  const runOf = (volume: SimVolume): VolumeRun | undefined =>
    volumes.find((each) => each.volume === volume);
  const forAll = (order: (client: VolumeClient) => void): void => {
    for (const { clients } of volumes) for (const client of clients) order(client);
  };
  return {
    clientHosts,
    move: (volume, node) => {
      const run = runOf(volume);
      if (!run) return;
      run.preferred = node;
      for (const client of run.clients) client.leave();
    },
    split: (volume, node, forMs, bothWrite = false) => {
      const run = runOf(volume);
      const [mover, ...others] = run?.clients ?? [];
      if (!run || !mover || others.length === 0) return null;
      run.preferred = node;
      if (!bothWrite) for (const other of others) other.lookOnly(forMs);
      mover.leave();
      return mover.host;
    },
    burst: (ms) => {
      forAll((client) => client.burst(ms));
    },
    hush: (ms) => {
      forAll((client) => client.hush(ms));
    },
    look: (ms) => {
      forAll((client) => client.lookOnly(ms));
    },
    change: (ms) => {
      forAll((client) => client.changeOnly(ms));
    },
    sweep: async (volume) => {
      await runOf(volume)?.clients[0]?.sweep();
    },
    ask: async (volume, requests) => {
      // the first one may always write
      const [client] = runOf(volume)?.clients ?? [];
      if (client) await Promise.all(requests.map((request) => client.ask(request)));
    },
    borders: (ms, kind) => {
      forAll((client) => client.borders(ms, kind));
    },
  };
}
