import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { FakeCluster } from './support/fake-cluster.ts';
import { run } from './support/run.ts';
import { scenes } from './support/scenes.ts';

// Each file in recordings/ is a transcript against a fresh fake cluster: `$ storctl …`, then what
// it printed (stderr lines begin with `! `) and its exit code unless that is 0. Lines that begin
// with `#` are notes; `# down n3` and the like set the scene. STOR_REWRITE=1 records anew: read
// the diff.
const folder = fileURLToPath(new URL('recordings/', import.meta.url));

async function replay(text: string): Promise<string> {
  const cluster = new FakeCluster();
  const lines: string[] = [];
  for (const line of text.split('\n')) {
    if (line.startsWith('#')) {
      lines.push(line);
      const scene = line.slice(1).trim();
      scenes[scene]?.(cluster);
    }
    if (!line.startsWith('$ storctl')) continue;
    const argv = line
      .split(/\s+/)
      .slice(2)
      .filter((word) => word !== '');
    const { stdout, stderr, exitCode } = await run(cluster, argv);
    lines.push(line);
    if (stdout !== '') lines.push(...stdout.replace(/\n$/, '').split('\n'));
    if (stderr !== '')
      lines.push(
        ...stderr
          .replace(/\n$/, '')
          .split('\n')
          .map((l) => `! ${l}`),
      );
    if (exitCode !== 0) lines.push(`[exit ${exitCode}]`);
    lines.push('');
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

for (const name of readdirSync(folder).sort()) {
  t.test(name, async (t) => {
    const recorded = readFileSync(`${folder}${name}`, 'utf8');
    const now = await replay(recorded);
    if (process.env['STOR_REWRITE'] === '1') writeFileSync(`${folder}${name}`, now);
    else t.equal(now, recorded);
    t.match(recorded, /^\$ storctl/m);
  });
}
