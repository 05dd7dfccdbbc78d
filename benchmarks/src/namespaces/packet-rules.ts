import { mustRun, runCommand } from '../harness/run-command.ts';

/** Arguments of `iptables -A`, chain first: for example ['INPUT', '-s', '10.77.0.11', '-j', 'DROP']. */
export type PacketRule = readonly string[];

/** Adds rules in a namespace and returns a function that takes exactly these away again. */
export async function addRules(
  netns: string,
  rules: readonly PacketRule[],
  table = 'filter',
): Promise<() => Promise<void>> {
  const iptables = (verb: '-A' | '-D', rule: PacketRule): string[] => [
    ...['netns', 'exec', netns, 'iptables', '-w', '-t', table, verb, ...rule],
  ];
  const added: PacketRule[] = [];
  const remove = async (): Promise<void> => {
    for (const rule of added.splice(0).reverse()) await mustRun('ip', iptables('-D', rule));
  };
  try {
    for (const rule of rules) {
      await mustRun('ip', iptables('-A', rule));
      added.push(rule);
    }
  } catch (error) {
    await remove();
    throw error;
  }
  return remove;
}

/** Takes all rules away; for a namespace that a fault has left in an unknown state. */
export async function flushRules(netns: string): Promise<void> {
  for (const table of ['filter', 'nat']) {
    await runCommand('ip', ['netns', 'exec', netns, 'iptables', '-w', '-t', table, '-F']);
  }
}

/** Bytes that the namespace's end of the network has received and sent since it was made. */
export async function networkBytes(netns: string): Promise<{ received: number; sent: number }> {
  const { stdout } = await mustRun('ip', ['netns', 'exec', netns, 'cat', '/proc/net/dev']);
  const line = stdout.split('\n').find((text) => text.trim().startsWith('eth0:'));
  const fields = (line ?? '')
    .replace(/^.*eth0:/, '')
    .trim()
    .split(/\s+/)
    .map(Number);
  const [received, sent] = [fields[0], fields[8]];
  if (received === undefined || sent === undefined) throw new Error(`no eth0 in ${netns}`);
  return { received, sent };
}
