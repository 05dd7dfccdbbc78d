import { StorError } from '@stor/protocol';
import { runStorctl, type StorctlIo } from '../../src/index.ts';
import { startMs, type FakeCluster } from './fake-cluster.ts';
import { immediateClock } from './immediate-clock.ts';

export interface Outcome {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** Runs storctl against a fake cluster and keeps what it printed. */
export async function run(
  cluster: FakeCluster,
  argv: string[],
  io: Partial<StorctlIo> = {},
): Promise<Outcome> {
  const out: string[] = [];
  const err: string[] = [];
  const exitCode = await runStorctl(argv, {
    openApi: cluster.open,
    openNbd: () => Promise.reject(new StorError('UNAVAILABLE', 'no NBD in this test')),
    stdout: { write: (text) => out.push(text) },
    stderr: { write: (text) => err.push(text) },
    env: { STOR_ENDPOINTS: '127.0.0.1:17110,127.0.0.1:17120' },
    cwd: '/',
    isTty: false,
    clock: immediateClock(startMs + 90_061_000),
    version: '0.1.0',
    ...io,
  });
  return { exitCode, stdout: out.join(''), stderr: err.join('') };
}
