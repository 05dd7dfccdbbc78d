import { spawn } from 'node:child_process';
import { once } from 'node:events';
import t, { type Test } from 'tap';
import { mustRun, runCommand } from '../benchmarks/src/harness/run-command.ts';
import { waitFor } from '../benchmarks/src/harness/wait-for.ts';
import { namespaceObstacle } from '../benchmarks/src/namespaces/obstacle.ts';
import { NamespaceNetwork } from '../benchmarks/src/namespaces/network.ts';
import { addRules, networkBytes } from '../benchmarks/src/namespaces/packet-rules.ts';

/** Without root or a program the test is skipped with the reason; with CI=true that is a failure. */
function canRun(t: Test): boolean {
  const obstacle = namespaceObstacle();
  if (obstacle === null) return true;
  if (process.env['CI'] === 'true') t.fail(obstacle);
  else t.plan(0, obstacle);
  return false;
}

/** Whether a connection from one namespace to the other is answered. */
async function hears(from: string, address: string): Promise<boolean> {
  const program = `const s = require('net').connect(7000, '${address}', () => process.exit(0));
    s.on('error', () => process.exit(1)); setTimeout(() => process.exit(1), 400);`;
  const node = [process.execPath, '-e', program];
  return (await runCommand('ip', ['netns', 'exec', from, ...node])).code === 0;
}

/** On a busy machine an answer may come too late for the program that asks. */
function hearsSoon(from: string, address: string): Promise<boolean> {
  return waitFor(`${address} to answer ${from}`, () => hears(from, address));
}

t.test('a network of namespaces', async (t) => {
  if (!canRun(t)) return;
  const network = await NamespaceNetwork.create(2);
  t.teardown(() => network.close());
  const [first, second] = [network.node(0), network.node(1)];
  const listener = `require('net').createServer((s) => s.end()).listen(7000, '0.0.0.0', () => console.log(1));`;
  const server = spawn('ip', ['netns', 'exec', second.name, process.execPath, '-e', listener], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(server, 'exit');
  await once(server.stdout, 'data');
  t.ok(await hearsSoon(first.name, second.address), 'nodes reach each other');
  t.ok(await hearsSoon(network.client.name, second.address), 'clients reach nodes');

  const undo = await addRules(second.name, [['INPUT', '-s', first.address, '-j', 'DROP']]);
  t.notOk(await hears(first.name, second.address), 'dropped packets do not arrive');
  t.ok(await hearsSoon(network.client.name, second.address), 'those of others do');
  await undo();
  t.ok(await hearsSoon(first.name, second.address), 'rules are taken away again');

  await network.setCable(1, 'down');
  t.notOk(await hears(first.name, second.address), 'nothing goes through a cut cable');
  await network.setCable(1, 'up');
  t.ok(await hearsSoon(first.name, second.address), 'a cable that is mended carries');
  const { received, sent } = await networkBytes(second.name);
  t.ok(received > 0 && sent > 0, 'bytes are counted');

  await t.rejects(
    addRules(second.name, [
      ['INPUT', '-s', first.address, '-j', 'DROP'],
      ['NO-SUCH-CHAIN', '-j', 'DROP'],
    ]),
    /NO-SUCH-CHAIN/,
  );
  t.ok(await hearsSoon(first.name, second.address), 'half a set of rules does not stay');

  await network.close();
  await network.close();
  t.same((await ended)[1], 'SIGKILL', 'what ran in it has ended');
  const { stdout } = await mustRun('ip', ['netns', 'list']);
  t.notMatch(stdout, new RegExp(`${network.prefix}-`), 'nothing is left');
});

t.test('what a killed run has left is removed by the next one', async (t) => {
  if (!canRun(t)) return;
  const dead = spawn('true');
  await once(dead, 'exit');
  await mustRun('ip', ['netns', 'add', `stor${dead.pid}-n1`]);
  await mustRun('ip', ['netns', 'add', `stor${process.ppid}-n9`]);
  t.teardown(() => runCommand('ip', ['netns', 'del', `stor${process.ppid}-n9`]));
  const network = await NamespaceNetwork.create(1);
  t.teardown(() => network.close());
  const { stdout } = await mustRun('ip', ['netns', 'list']);
  t.notMatch(stdout, `stor${dead.pid}-n1`);
  t.match(stdout, `stor${process.ppid}-n9`, 'that of a process that lives stays');
});
