import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AcceptReport } from '../harness/accept-report.ts';
import { parseOptions } from '../harness/parse-options.ts';
import { runInNamespaces } from '../namespaces/run-in-namespaces.ts';
import type { NamespaceNetwork } from '../namespaces/network.ts';
import { failover } from '../scenarios/replication/failover.ts';
import { noQuorum } from '../scenarios/replication/no-quorum.ts';
import { pausedPrimary } from '../scenarios/replication/paused-primary.ts';
import { resyncTraffic } from '../scenarios/replication/resync-traffic.ts';
import { secondaryStalls } from '../scenarios/replication/stalls.ts';
import type { Stage } from '../scenarios/replication/stage.ts';
import { verbs } from '../scenarios/replication/verbs.ts';

const mostNodes = 5;

const parts: Record<string, (stage: Stage) => Promise<void>> = {
  stalls: secondaryStalls,
  failover,
  'paused-primary': pausedPrimary,
  resync: resyncTraffic,
  'no-quorum': noQuorum,
  verbs,
};

const usage = `usage: npm run accept -- replication [PART...] [--tries N] [--keep]
Shows what is promised of replication, in network namespaces. Needs root, ip and iptables.

  parts      ${Object.keys(parts).join(', ')}; default: all
  --tries    of everything that is measured several times; default 10
  --keep     leaves the folders with logs and disks`;

const { positionals, values } = parseOptions(usage, {
  allowPositionals: true,
  options: {
    tries: { type: 'string', default: '10' },
    // leaves the folders with logs and disks
    keep: { type: 'boolean', default: false },
  },
});

async function run(network: NamespaceNetwork): Promise<number> {
  const report = new AcceptReport();
  for (const [name, part] of Object.entries(parts)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue;
    const dir = mkdtempSync(join(tmpdir(), `stor-accept-${name}-`));
    const stage = { network, dir, report, tries: Number(values.tries) };
    await report.part(name, () => part(stage));
    if (!values.keep) rmSync(dir, { recursive: true, force: true });
    else process.stderr.write(`logs and disks are in ${dir}\n`);
  }
  return report.finish() ? 0 : 1;
}

const unknown = positionals.filter((name) => !(name in parts));
if (unknown.length > 0) {
  process.stderr.write(
    `error: no part ${unknown.join(', ')}; there are: ${Object.keys(parts).join(', ')}\n`,
  );
  process.exitCode = 2;
} else process.exitCode = await runInNamespaces(mostNodes, run);
