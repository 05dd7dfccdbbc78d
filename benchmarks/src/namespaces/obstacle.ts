import { spawnSync } from 'node:child_process';

const programs = [
  { name: 'ip', args: ['-V'], debianPackage: 'iproute2' },
  { name: 'nsenter', args: ['--version'], debianPackage: 'util-linux' },
  { name: 'iptables', args: ['--version'], debianPackage: 'iptables' },
];

/** Why network namespaces cannot be used here, in one sentence; null when they can. */
export function namespaceObstacle(): string | null {
  if (process.platform !== 'linux') return 'network namespaces exist on Linux only';
  if (process.getuid?.() !== 0) return 'network namespaces need root';
  for (const { name, args, debianPackage } of programs) {
    const { error, status } = spawnSync(name, args, { stdio: 'ignore' });
    if (error || status !== 0) return `${name} is missing: apt-get install ${debianPackage}`;
  }
  const probe = `stor${process.pid}-probe`;
  const added = spawnSync('ip', ['netns', 'add', probe], { encoding: 'utf8' });
  if (added.status !== 0) return `no network namespace can be made: ${added.stderr.trim()}`;
  const rules = spawnSync('ip', ['netns', 'exec', probe, 'iptables', '-A', 'INPUT', '-j', 'DROP'], {
    encoding: 'utf8',
  });
  spawnSync('ip', ['netns', 'del', probe]);
  return rules.status === 0 ? null : `iptables does not work here: ${rules.stderr.trim()}`;
}
