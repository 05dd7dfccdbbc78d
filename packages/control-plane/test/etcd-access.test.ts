// Who is let into a real etcd: by certificates, by name and password, and what the others are told.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock, systemRandom, type Logger } from '@stor/runtime';
import t from 'tap';
import type { Test } from 'tap';
import { EtcdClusterStore, type EtcdFiles } from '../src/etcd/index.ts';
import { Authority, EtcdServers, needsEtcd, needsOpenssl } from '../src/testing/index.ts';
import { until } from './embedded-cluster.ts';

/** A store, and what it warns of. */
async function openStore(
  t: Test,
  address: string,
  tls?: EtcdFiles,
): Promise<{ store: EtcdClusterStore; warnings: string[] }> {
  const warnings: string[] = [];
  const logger: Logger = {
    debug: () => {},
    info: () => {},
    warn: (fields: object) => void warnings.push(JSON.stringify(fields)),
    error: () => {},
    child: () => logger,
  };
  const parts = { clock: systemClock, random: systemRandom, logger };
  const store = await EtcdClusterStore.open({ id: 'n1', address, tls, ...parts });
  t.teardown(() => store.close());
  return { store, warnings };
}

const put = (value: string) => ({
  compare: [],
  operations: [{ type: 'put' as const, key: '/k', value: new TextEncoder().encode(value) }],
});

t.test('by certificates', async (t) => {
  if (!needsEtcd(t) || !needsOpenssl(t)) return;
  const right = new Authority(t);
  const wrong = new Authority(t);
  const servers = await EtcdServers.start(t, { tls: { ca: right.ca, ...right.sign('server') } });
  const address = servers.address('tls');

  const { store } = await openStore(t, address, { ca: right.ca, ...right.sign('n1') });
  await store.transact(put('secret'));
  t.ok(await store.get('/k'));
  const events = store.watch('', 0, new AbortController().signal);
  t.match(await events[Symbol.asyncIterator]().next(), { value: [{ key: '/k' }] });

  const told = async (tls: EtcdFiles | undefined, expected: RegExp, what: string) => {
    const { store, warnings } = await openStore(t, address, tls);
    await t.rejects(store.get('/k', { timeoutMs: 2_500 }), { code: 'UNAVAILABLE' }, what);
    await until(() => warnings.length > 0);
    t.match(warnings.join('\n'), expected, what);
    await store.close();
  };
  await Promise.all([
    told({ ca: wrong.ca, ...right.sign('n1') }, /not signed by the authority in .*ca.pem/, 'CA'),
    told({ ca: right.ca }, /wants a certificate of its clients: give --etcd-cert/, 'none'),
    told(
      { ca: right.ca, ...right.sign('n1', { isExpired: true }) },
      /refuses the certificate of this node/,
      'expired',
    ),
    told({ ca: right.ca, ...wrong.sign('n1') }, /refuses the certificate of this node/, 'foreign'),
    told(undefined, /the server speaks TLS: give its authority with --etcd-ca/, 'no TLS'),
  ]);
  const ghost = openStore(t, address, { ca: '/nowhere/ca.pem' });
  await t.rejects(ghost, { code: 'INVALID_ARGUMENT', message: /certificate file .*nowhere/ });
});

t.test('the server is not who it should be', async (t) => {
  if (!needsEtcd(t) || !needsOpenssl(t)) return;
  const authority = new Authority(t);
  const told = async (server: { cert: string; key: string }, expected: RegExp) => {
    const servers = await EtcdServers.start(t, { tls: { ca: authority.ca, ...server } });
    const files = { ca: authority.ca, ...authority.sign('n1') };
    const { store, warnings } = await openStore(t, servers.address('tls'), files);
    await until(() => warnings.length > 0);
    t.match(warnings.join('\n'), expected);
    await store.close();
  };
  await Promise.all([
    told(authority.sign('s', { isExpired: true }), /certificate of the server has expired/),
    told(authority.sign('s', { hosts: 'DNS:elsewhere' }), /is for another name/),
  ]);
});

t.test('by name and password', async (t) => {
  if (!needsEtcd(t)) return;
  const servers = await EtcdServers.start(t);
  const folder = t.testdir({});
  const file = (name: string, text: string): { passwordFile: string } => {
    writeFileSync(join(folder, name), text);
    return { passwordFile: join(folder, name) };
  };
  await servers.ask('auth/user/add', { name: 'root', password: 'r' });
  await servers.ask('auth/user/grant', { user: 'root', role: 'root' });
  await servers.ask('auth/user/add', { name: 'stor', password: 'geheim' });
  await servers.ask('auth/role/add', { name: 'stor' });
  const range = { key: btoa('prod/'), range_end: btoa('prod0'), permType: 'READWRITE' };
  await servers.ask('auth/role/grant', { name: 'stor', perm: range });
  await servers.ask('auth/user/grant', { user: 'stor', role: 'stor' });

  const at = (user: string, prefix = 'prod'): string =>
    `etcd://${user}@${servers.endpoints.join(',')}/${prefix}`;
  const password = file('right', 'geheim\n');
  const { store } = await openStore(t, at('stor'), password);
  await store.transact(put('before'));
  await servers.ask('auth/enable', {});
  await store.transact(put('after'));
  const seen: string[] = [];
  const stop = new AbortController();
  const watching = (async () => {
    for await (const batch of store.watch('', 0, stop.signal)) {
      for (const { value } of batch) seen.push(new TextDecoder().decode(value ?? undefined));
    }
  })();
  await until(() => seen.includes('after'));
  const { leaseId } = await store.grantLease(5_000);
  await store.renewLease(leaseId);
  await store.revokeLease(leaseId);
  await until(() => store.status().isLeader);

  // the tokens are gone with the process that gave them
  await servers.kill(0);
  servers.launch(0);
  await until(() =>
    store.transact(put('again')).then(
      () => true,
      () => false,
    ),
  );
  await until(() => seen.includes('again'));
  stop.abort();
  await watching;

  const refused = async (
    address: string,
    files: EtcdFiles | undefined,
    expected: { code: string; message?: RegExp },
  ) => {
    const { store } = await openStore(t, address, files);
    await t.rejects(store.get('/k'), expected);
    await store.close();
  };
  await Promise.all([
    refused(at('stor'), file('wrong', 'x'), {
      code: 'UNAUTHENTICATED',
      message: /authentication failed.*correct the user .* or the password/,
    }),
    refused(at('nobody'), password, { code: 'UNAUTHENTICATED' }),
    refused(servers.address('prod'), undefined, {
      code: 'UNAUTHENTICATED',
      message: /name it in the address \(etcd:\/\/USER@/,
    }),
    refused(at('stor', 'other'), password, {
      code: 'PERMISSION_DENIED',
      message: /must read and write all keys below the prefix/,
    }),
  ]);
  for (const [address, files, message] of [
    [at('stor'), undefined, /etcd user stor needs a password/],
    [servers.address('prod'), password, /and no user/],
    [at('stor'), { passwordFile: '/nowhere' }, /the password file of etcd \/nowhere/],
    [at('stor'), file('empty', '\n'), /is empty/],
    [at('stor:geheim'), password, /etcd:\/\/stor:…@.*a password does not belong into it/],
  ] as const) {
    await t.rejects(openStore(t, address, files), { code: 'INVALID_ARGUMENT', message });
  }
});
