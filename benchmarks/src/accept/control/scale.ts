import { join } from 'node:path';
import { checkoutRoot } from '../../harness/checkout.ts';
import { mustRun } from '../../harness/run-command.ts';
import type { ControlStage } from './stage.ts';

const MiB = 1024 * 1024;
const shape = { nodes: 1_000, volumes: 10_000 };
const timeoutMs = 600_000;
const targetReconcileMs = 5_000;
/** A leader that stands still for longer than this is taken for dead: the shortest election timeout (ms). */
const targetTurnMs = 1_000;

/**
 * The control plane of 1,000 nodes and 10,000 volumes in one process: what it costs. Times are of CPU,
 * garbage collection and what nodes and primaries decide included.
 */
export async function scale({ report, figures }: ControlStage): Promise<void> {
  const program = join(
    checkoutRoot(),
    'packages/control-plane/dist/src/testing/measure-large-cluster.js',
  );
  const args = ['--nodes', String(shape.nodes), '--volumes', String(shape.volumes)];
  const { stdout } = await mustRun(process.execPath, ['--expose-gc', program, ...args], {
    timeoutMs,
  });
  const found = JSON.parse(stdout) as Record<string, number>;
  Object.assign(figures, found);
  const of = (name: string): number => found[name] ?? NaN;
  const ms = (name: string): string => `${of(name)} ms`;
  const mib = (name: string): string => `${(of(name) / MiB).toFixed(1)} MiB`;
  const size = `${shape.nodes} nodes, ${shape.volumes} volumes`;
  const show = (name: string, value: string): void => {
    report.add(`${size}: ${name}`, value, 'measured', true);
  };
  show('first look of a new leader', ms('planOfNewLeader'));
  show('a look when nothing has changed', ms('planAgain'));
  show('a look after one change', ms('planOfOneChange'));
  show('state in memory', mib('stateHeapBytes'));
  show('key-value store in memory', mib('storeHeapBytes'));
  show('snapshot of the store', mib('snapshotBytes'));
  show('log that wrote it', mib('logBytes'));
  show('keys in the store', String(of('storeKeys')));
  show('making a snapshot, on the main thread', ms('snapshotEncode'));
  show('of it in one turn, at most', ms('snapshotLongestPiece'));
  show('reading a snapshot', ms('snapshotRestore'));
  show('decoding all records, at the start of a member', ms('decodeAll'));
  show('change of leader: full list, decoded, and the first look', ms('newLeader'));
  report.add(
    `${size}: longest turn of the event loop at a start`,
    ms('startLongestTurn'),
    `< ${targetTurnMs} ms`,
    of('startLongestTurn') < targetTurnMs,
  );
  report.add(
    `${size}: one node lost, all controller time until reconciled`,
    `${ms('reconcile')} in ${of('reconcileRevisions')} revisions`,
    `< ${targetReconcileMs} ms`,
    of('reconcile') < targetReconcileMs,
  );
}
