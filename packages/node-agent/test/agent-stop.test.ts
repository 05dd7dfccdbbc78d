import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { openApiClient } from '@stor/protocol';
import { silentLogger, type Logger } from '@stor/runtime';
import { NbdClient } from 'nbd-client-js';
import { Agent } from '../src/agent.ts';
import { checkAgentConfig } from '../src/config.ts';

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  const ports = await Promise.all(
    servers.map(
      (server) =>
        new Promise<number>((resolve) => {
          server.listen(0, '127.0.0.1', () => {
            resolve((server.address() as { port: number }).port);
          });
        }),
    ),
  );
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Notes what the control plane says of releases. */
function listening(released: object[]): Logger {
  const logger: Logger = {
    ...silentLogger,
    child: () => logger,
    info: (fields: object, message?: string) => {
      if (message === 'released') released.push(fields);
    },
  };
  return logger;
}

t.test('an agent that stops under load gives its attachments back first', async (t) => {
  const [api = 0, http = 0, peers = 0, nbd = 0] = await freePorts(4);
  const id = 'n-0123456789abcdef';
  const config = checkAgentConfig(
    {
      clusterId: 'c-0123456789abcdef',
      nodeId: id,
      nodeName: 'n1',
      dataDir: join(t.testdir({}), 'data'),
      listen: { host: '127.0.0.1', api, http, peers, nbd: [nbd] },
      members: [{ id, name: 'n1', api: `127.0.0.1:${api}` }],
      logLevel: 'error',
    },
    'test',
  );
  const released: object[] = [];
  const agent = await Agent.start(config, listening(released));
  t.teardown(() => agent.close());
  const client = openApiClient({ endpoints: [`127.0.0.1:${api}`], timeoutMs: 10_000 });
  t.teardown(() => client.close());
  for (;;) {
    // until the node is registered and has told of its disk
    const created = await client
      .createVolume({ name: 'db', sizeBytes: 1 << 20, replicas: 1, labels: {} })
      .then(
        () => true,
        () => false,
      );
    if (created) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const load = await NbdClient.connect({ uri: `nbd://127.0.0.1:${nbd}/db` });
  let writing = true;
  const writer = (async () => {
    const block = new Uint8Array(4096).fill(7);
    for (let i = 0; writing; i++) await load.write((i % 256) * 4096, block);
  })().catch(() => {});
  await agent.close();
  writing = false;
  await load.close().catch(() => {});
  await writer;
  t.match(released, [{ volume: 'db', epoch: 1, clean: true }]);
});
