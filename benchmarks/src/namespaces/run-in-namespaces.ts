import { spawn } from 'node:child_process';
import { NamespaceNetwork } from './network.ts';
import { namespaceObstacle } from './obstacle.ts';

/** Tells the process in the namespace which network it is in: prefix and number of nodes. */
const variable = 'STOR_NAMESPACES';
/** After Ctrl-C the program gets this long to print what it knows (ms). */
const endWaitMs = 10_000;

/**
 * Runs this program once more inside the clients' namespace of a new network, so that it and all
 * that it starts reach the nodes. This process stays outside, owns the network and removes it with
 * everything in it when the program ends, whatever ended it. Where namespaces cannot be used it says
 * why and returns 0, or 1 with CI=true.
 */
export async function runInNamespaces(
  nodes: number,
  program: (network: NamespaceNetwork) => Promise<number>,
): Promise<number> {
  const inside = /^(\S+) (\d+)$/.exec(process.env[variable] ?? '');
  if (inside) return program(new NamespaceNetwork(inside[1] ?? '', Number(inside[2])));
  const obstacle = namespaceObstacle();
  if (obstacle !== null) {
    process.stdout.write(`skipped: ${obstacle}\n`);
    return process.env['CI'] === 'true' ? 1 : 0;
  }
  const network = await NamespaceNetwork.create(nodes);
  try {
    return await runInside(network);
  } finally {
    await network.close();
  }
}

function runInside(network: NamespaceNetwork): Promise<number> {
  const command = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const env = { ...process.env, [variable]: `${network.prefix} ${network.nodes.length}` };
  return new Promise((resolve, reject) => {
    const child = spawn('ip', ['netns', 'exec', network.client.name, ...command], {
      stdio: 'inherit',
      env,
    });
    let timer: NodeJS.Timeout | undefined;
    const end = (): void => {
      child.kill('SIGTERM');
      timer ??= setTimeout(() => child.kill('SIGKILL'), endWaitMs);
    };
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
    for (const signal of signals) process.on(signal, end);
    child.once('error', reject);
    child.once('close', (code) => {
      clearTimeout(timer);
      for (const signal of signals) process.off(signal, end);
      resolve(code ?? 130);
    });
  });
}
