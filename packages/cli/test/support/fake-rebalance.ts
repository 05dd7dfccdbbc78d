import { StorError } from '@stor/protocol';
import type { Rebalance, RebalanceMove, StorApi } from '@stor/protocol';
import { startMs } from './fake-volume.ts';

type RebalanceMethods = 'startRebalance' | 'orderRebalance' | 'getRebalance';

const move = (volume: string, from: string): RebalanceMove => ({
  ...{ volume, volumeId: `v-${volume}`, segment: 0, replicaId: 'r-1', bytes: 8 * 2 ** 30 },
  ...{ fromNode: from, fromDiskId: `d-${from}`, fromDisk: `/srv/${from}/d1` },
  ...{ toNode: 'n4', toDiskId: 'd-n4', toDisk: '/srv/n4/d1' },
});

/** A rebalance as the command line sees one: two moves are to be made, and time stands still. */
export class FakeRebalance {
  known: Rebalance = {
    state: 'idle',
    message: '',
    settings: { bandPercent: 5, bytesPerSecond: 0, maxMoves: 2, stopAfter: 0 },
    startedAtMs: null,
    endedAtMs: null,
    moved: 0,
    movedBytes: 0,
    failed: 0,
    moving: [],
    planned: [],
    plannedMoves: 0,
    plannedBytes: 0,
    planIsWhole: true,
    pools: [
      {
        ...{ tag: '', disks: 4, lowestPercent: 0, highestPercent: 32 },
        ...{ plannedLowestPercent: 16, plannedHighestPercent: 16.5 },
      },
    ],
    rate: { bytesPerSecond: 64 * 2 ** 20, source: 'assumed' },
    etaMs: null,
  };

  methods(): { [M in RebalanceMethods]: (request: Parameters<StorApi[M]>[0]) => Rebalance } {
    return {
      getRebalance: () => this.known,
      startRebalance: ({ dryRun = false, ...changes }) => {
        if (changes.maxMoves === 9) throw new StorError('INVALID_ARGUMENT', '9 moves: give 1 to 4');
        const next: Rebalance = {
          ...this.known,
          state: 'running',
          message: '',
          settings: { ...this.known.settings, ...changes },
          startedAtMs: dryRun ? null : startMs,
          planned: [move('db', 'n1'), move('wal', 'n2')],
          plannedMoves: 2,
          plannedBytes: 16 * 2 ** 30,
          etaMs: 256_000,
        };
        if (!dryRun) this.known = next;
        return next;
      },
      orderRebalance: ({ order }) => {
        if (this.known.state === 'idle') {
          throw new StorError('FAILED_PRECONDITION', `there is no rebalance to ${order}`);
        }
        const state = { pause: 'paused', resume: 'running', stop: 'stopped' } as const;
        const message = order === 'stop' ? 'it was called off' : '';
        const left = order === 'stop' ? { planned: [], plannedMoves: 0, etaMs: null } : {};
        this.known = { ...this.known, state: state[order], message, ...left };
        return this.known;
      },
    };
  }
}
