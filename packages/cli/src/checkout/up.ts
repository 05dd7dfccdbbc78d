import { join, resolve } from 'node:path';
import { Command, CommanderError } from 'commander';
import { StorError, exitCodeOf, formatByteSize, openApiClient, type StorApi } from '@stor/protocol';
import { openNbdSession } from '../nbd-client-session.ts';
import type { TextSink } from '../printer.ts';
import { CheckoutCluster } from './checkout-cluster.ts';
import { defaultBasePort, type CheckoutNode } from './checkout-layout.ts';
import { proveCluster } from './prove-cluster.ts';

const maxNodes = 7;

/**
 * `npm run up`: starts the checkout's cluster as far as it does not run, proves that it works and
 * says what to try next. Resolves with the exit code.
 *
 * @param root of the checkout
 */
export async function runUp(
  argv: readonly string[],
  root: string,
  io: { stdout: TextSink; stderr: TextSink },
): Promise<number> {
  const say = (line: string) => void io.stdout.write(`${line}\n`);
  try {
    const options = parseUp(argv, root, io);
    const cluster = CheckoutCluster.create({
      stateDir: options.dir,
      agentMain: join(root, 'packages/node-agent/dist/src/main.js'),
      nodes: options.nodes,
      basePort: options.basePort,
    });
    const started = await cluster.start();
    const all = cluster.layout.nodes.map((node) => node.name).join(', ');
    say(
      started.length === 0
        ? `cluster is up already: ${all}`
        : `cluster is up: ${all} (started ${started.join(', ')})`,
    );
    const api = openApiClient({ endpoints: cluster.layout.endpoints });
    try {
      await prove(cluster, api, say);
      await sayUnhealthy(api, say);
    } finally {
      await api.close();
    }
    say(whatNext);
    return 0;
  } catch (error) {
    if (error instanceof CommanderError)
      return error.exitCode === 0 ? 0 : exitCodeOf.INVALID_ARGUMENT;
    const known = StorError.from(error);
    io.stderr.write(`error: ${known.message}\n`);
    return exitCodeOf[known.code];
  }
}

function parseUp(
  argv: readonly string[],
  root: string,
  io: { stdout: TextSink; stderr: TextSink },
): { nodes: number; basePort: number; dir: string } {
  const program = new Command('npm run up --')
    .description('starts the cluster of this checkout and proves that it works')
    .option('--nodes <count>', `nodes of a new cluster, 1 to ${maxNodes}`, '3')
    .option(
      '--base-port <port>',
      'node N of a new cluster listens from this + 10 N on',
      String(defaultBasePort),
    )
    .option('--dir <path>', 'where the cluster lives', join(root, '.stor'))
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
    })
    .parse(argv, { from: 'user' });
  const { nodes, basePort, dir } = program.opts<{ nodes: string; basePort: string; dir: string }>();
  return {
    nodes: integer('--nodes', nodes, 1, maxNodes),
    basePort: integer('--base-port', basePort, 1024, 65_535 - 10 * (maxNodes + 1)),
    dir: resolve(dir),
  };
}

function integer(name: string, text: string, min: number, max: number): number {
  const value = /^[0-9]+$/.test(text) ? Number(text) : NaN;
  if (value >= min && value <= max) return value;
  throw new StorError('INVALID_ARGUMENT', `${name} ${text} is not valid: ${min} to ${max}`);
}

async function prove(
  cluster: CheckoutCluster,
  api: StorApi,
  say: (line: string) => void,
): Promise<void> {
  const { nodes, host } = cluster.layout;
  const base = (node: CheckoutNode | undefined) => `nbd://${host}:${node?.nbd[0] ?? 0}`;
  const replicas = Math.min(3, nodes.length);
  await proveCluster({
    api,
    openNbd: openNbdSession,
    writeBase: base(nodes[0]),
    readBase: base(nodes[1] ?? nodes[0]),
    replicas,
    say,
  });
  say(
    `proof passed: ${replicas} replicas, written through ${nodes[0]?.name}, read through ${(nodes[1] ?? nodes[0])?.name}`,
  );
}

/** After a crash volumes are brought back in the background: say so instead of waiting. */
async function sayUnhealthy(api: StorApi, say: (line: string) => void): Promise<void> {
  const { volumes } = await api.listVolumes({});
  for (const { metadata, status } of volumes) {
    if (status.health === 'healthy' || status.health === 'deleting') continue;
    const left = status.replicas.reduce((sum, replica) => sum + replica.bytesRemaining, 0);
    const syncing = left > 0 ? `, ${formatByteSize(left)} left to copy` : '';
    say(
      `volume ${metadata.name} is ${status.health}${syncing}${status.message ? `: ${status.message}` : ''}`,
    );
  }
}

const whatNext = `
Try next:
  bin/storctl node ls
  bin/storctl volume create db --size 2GiB --replicas 3
  bin/storctl volume inspect db
  nbdinfo "$(bin/storctl volume uri db)"       # any NBD client; Debian: libnbd-bin, qemu-utils
  kill -9 $(cat .stor/n2/agent.pid)            # then "npm run up" brings the node back
  npm run down                                 # stops the agents; the data stays`;
