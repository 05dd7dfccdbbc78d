import type { Clock, Logger, StreamSocket } from '@stor/runtime';
import type { HeaderForm } from 'nbd-client-js';
import type { NbdLimits } from '../core/nbd/nbd-limits.ts';
import type { PayloadMemory } from '../core/nbd/payload-memory.ts';
import type { NbdExportLease } from './nbd-exports.ts';
import type { RequestRules } from '../core/nbd/request-check.ts';
import type { BusyPoll } from './busy-poll.ts';
import type { ExportStats, NbdStats } from './nbd-stats.ts';
import type { ReadBufferPool } from './read-buffer-pool.ts';
import type { OutputBufferPool } from './reply-output.ts';

export interface TransmissionOptions {
  socket: StreamSocket;
  lease: Pick<NbdExportLease, 'device' | 'readOnly' | 'changedSince' | 'isRelay'>;
  form: HeaderForm;
  /** names of metadata contexts; the id of each is its place, from 1 */
  contexts: readonly string[];
  limits: NbdLimits;
  clock: Clock;
  logger: Logger;
  stats: NbdStats;
  exportStats: ExportStats;
  readBuffers: ReadBufferPool;
  outputBuffers: OutputBufferPool;
  /** of all connections */
  memory: PayloadMemory;
  /** null: the lane sleeps whenever it has nothing to do */
  busyPoll: BusyPoll | null;
  /** the client is known to send again, elsewhere, what was answered ESHUTDOWN */
  sendsAgain: boolean;
  /** Called once when no request is in the device any more and none will be started. */
  onDrained: () => void;
}

export function requestRules({ lease, limits, form, contexts }: TransmissionOptions): RequestRules {
  return {
    sizeBytes: lease.device.sizeBytes,
    payloadBytes: limits.payloadBytes,
    form,
    hasContexts: contexts.length > 0,
    readOnly: lease.readOnly,
  };
}
