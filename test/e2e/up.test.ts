// `npm run up` and `npm run down`, in a folder and on ports of their own.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { checkoutRoot } from '../../benchmarks/src/harness/checkout.ts';
import { reservePorts } from '../../packages/runtime/src/testing/index.ts';
import { describeResult, runCommand } from '../../benchmarks/src/harness/run-command.ts';
import { ensureBuilt } from '../support/cluster.ts';

t.test('up proves the cluster, brings a dead node back and finds its data again', async (t) => {
  ensureBuilt();
  // Not t.testdir(): its path is too long for the agents' UNIX sockets.
  const parent = mkdtempSync(join(tmpdir(), 'stor-up-'));
  const dir = join(parent, 'cluster');
  const ports = await reservePorts(50);
  const script = (name: string, ...args: string[]): ReturnType<typeof runCommand> =>
    runCommand('node', [join(checkoutRoot(), `scripts/${name}.mjs`), '--dir', dir, ...args]);
  const up = (): ReturnType<typeof runCommand> => script('up', '--base-port', String(ports[0]));
  const storctl = (...args: string[]): ReturnType<typeof runCommand> => {
    const endpoints = [10, 20, 30].map((at) => `127.0.0.1:${(ports[0] ?? 0) + at}`).join(',');
    return runCommand(join(checkoutRoot(), 'bin/storctl'), args, {
      env: { STOR_ENDPOINTS: endpoints },
    });
  };
  t.teardown(async () => {
    await script('down', '--purge');
    rmSync(parent, { recursive: true, force: true });
  });

  const first = await up();
  t.equal(first.code, 0, describeResult(first));
  const hashes = first.stdout.match(/\b[0-9a-f]{64}\b/g) ?? [];
  t.ok(hashes.length >= 2, 'it printed both hashes');
  t.equal(hashes[0], hashes[1], 'what was written through n1 was read through n2');
  const volumes = await storctl('volume', 'ls', '-o', 'name', '--no-headers');
  t.equal(volumes.stdout, '', 'the volume of the proof is gone');
  const created = await storctl('volume', 'create', 'kept', '--size', '8MiB');
  t.equal(created.code, 0, created.stderr);

  const pidOf = (node: string): number =>
    Number(readFileSync(join(dir, node, 'agent.pid'), 'utf8').trim());
  const victim = pidOf('n2');
  t.match(readFileSync(`/proc/${victim}/cmdline`, 'utf8'), dir, 'the pid file names our agent');
  process.kill(victim, 'SIGKILL');
  const second = await up();
  t.equal(second.code, 0, describeResult(second));
  t.match(second.stdout, /started n2/);
  t.not(pidOf('n2'), victim);

  const down = await script('down');
  t.equal(down.code, 0, describeResult(down));
  t.ok(existsSync(join(dir, 'n1/data')), 'the data stays');
  const refused = await runCommand('node', [
    join(checkoutRoot(), 'scripts/down.mjs'),
    ...['--dir', join(dir, 'nothing')],
  ]);
  t.equal(refused.code, 0, 'stopping what is not there is no error');
  const third = await up();
  t.equal(third.code, 0, describeResult(third));
  const kept = await storctl('volume', 'ls', '-o', 'name', '--no-headers');
  t.match(kept.stdout, 'kept');
  const purge = await script('down', '--purge');
  t.equal(purge.code, 0, describeResult(purge));
  t.notOk(existsSync(dir), 'everything is removed');
});
