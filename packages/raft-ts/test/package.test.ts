import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { defaultLimits } from '../src/index.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');

interface Manifest {
  exports: Record<string, Record<string, string>>;
  dependencies: Record<string, string>;
}

t.test('the package holds what it exports, and needs nothing of this workspace', async (t) => {
  const manifest = JSON.parse(read('package.json')) as Manifest;
  const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const [packed] = JSON.parse(output) as { files: { path: string }[] }[];
  const files = new Set((packed?.files ?? []).map((file) => file.path));
  for (const file of ['README.md', 'docs/api.md', 'package.json']) t.ok(files.has(file), file);
  const stray = [...files].filter((file) => /(^|\/)test\/|tsbuildinfo|node_modules/.test(file));
  t.same(stray, [], 'no tests and nothing of the build');
  for (const targets of Object.values(manifest.exports)) {
    const missing = Object.values(targets).filter((file) => !files.has(file.replace('./', '')));
    // without a build, as when tests run on the sources, there is no dist
    t.same(
      missing.filter((file) => !file.startsWith('./dist/')),
      [],
    );
  }
  for (const [name, version] of Object.entries(manifest.dependencies)) {
    t.match(version, /^\d/, `${name} is had from anywhere`);
  }
});

t.test('the sources import themselves, Node, and what the package names', async (t) => {
  const { dependencies } = JSON.parse(read('package.json')) as Manifest;
  for (const file of readdirSync(path.join(root, 'src'), { recursive: true, encoding: 'utf8' })) {
    if (!file.endsWith('.ts')) continue;
    for (const [, from = ''] of read(`src/${file}`).matchAll(/from '([^']+)'/g)) {
      const isKnown = from.startsWith('.') || from.startsWith('node:') || from in dependencies;
      if (!isKnown) t.fail(`${file} imports ${from}`);
      const isPure = file.startsWith('core/') && from.startsWith('node:');
      if (isPure) t.fail(`${file} of the pure core imports ${from}`);
    }
  }
});

t.test('every option, limit and error code is in docs/api.md', async (t) => {
  const docs = read('docs/api.md');
  const options = /interface RaftNodeOptions \{([^]*?)\n\}/.exec(read('src/raft-options.ts'))?.[1];
  const names = [...(options ?? '').matchAll(/^ {2}(\w+)\??:/gm)].map(([, name]) => name);
  t.ok(names.length > 10);
  const codes = [...read('src/errors.ts').matchAll(/^ {2}\| '(\w+)'/gm)].map(([, code]) => code);
  t.ok(codes.length > 10);
  for (const name of [...names, ...codes, ...Object.keys(defaultLimits)]) {
    t.ok(docs.includes(`| \`${name ?? ''}\``), String(name));
  }
});
