// Messages between this version and the next one that `npm run accept -- control mixed-versions` builds:
// this one and a patch, which must still fit.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadPackageDefinition } from '@grpc/grpc-js';
import type { GrpcObject, ServiceClientConstructor, ServiceDefinition } from '@grpc/grpc-js';
import { load } from '@grpc/proto-loader';
import t from 'tap';
import { loadServices } from '../src/index.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const patch = 'benchmarks/src/accept/control/mixed-versions/next-version.patch';

t.test('the patch of the next version fits', (t) => {
  execFileSync('git', ['apply', '--check', patch], { cwd: root, stdio: 'pipe' });
  t.end();
});

/** The services as the next version has them. */
async function nextServices(): Promise<Record<'stor' | 'agent', ServiceDefinition>> {
  const dir = mkdtempSync(join(tmpdir(), 'stor-next-'));
  const folder = join(dir, 'packages/protocol/proto');
  try {
    mkdirSync(folder, { recursive: true });
    cpSync(join(root, 'packages/protocol/proto'), folder, { recursive: true });
    execFileSync('git', ['apply', '--include=*.proto', join(root, patch)], { cwd: dir });
    const definition = await load(['stor.proto', 'agent.proto'], {
      includeDirs: [folder],
      keepCase: false,
      longs: Number,
      defaults: true,
      arrays: true,
      objects: true,
    });
    const loaded = loadPackageDefinition(definition);
    const serviceIn = (path: string): ServiceDefinition => {
      let at: unknown = loaded;
      for (const part of path.split('.')) at = (at as GrpcObject)[part];
      return (at as ServiceClientConstructor).service;
    };
    return { stor: serviceIn('stor.v1.Stor'), agent: serviceIn('stor.internal.v1.Agent') };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

t.test('each version reads what the other writes', async (t) => {
  const [now, next] = [await loadServices(), await nextServices()];
  const asked = { volumeId: 'v-1', mode: 'auto', onlyIfWanted: true, nextHint: 'of N+1' };
  const [here, there] = [now.agent['AttachHere'], next.agent['AttachHere']];
  if (!here || !there) throw new Error('no such call');
  const read = here.requestDeserialize(there.requestSerialize(asked)) as object;
  t.match(read, { volumeId: 'v-1', mode: 'auto', onlyIfWanted: true });
  t.notOk('nextHint' in read, 'a field that is not known is no error, and is not there');
  t.match(there.requestDeserialize(here.requestSerialize(asked)), {
    volumeId: 'v-1',
    nextHint: '',
  });
  const [listed, listedNext] = [now.stor['GetVolume'], next.stor['GetVolume']];
  if (!listed || !listedNext) throw new Error('no such call');
  const volume = { status: { health: 'healthy', nextNote: 'of N+1' } };
  t.match(listed.responseDeserialize(listedNext.responseSerialize(volume)), {
    status: { health: 'healthy', nbdUri: '' },
  });
  t.match(listedNext.responseDeserialize(listed.responseSerialize(volume)), {
    status: { health: 'healthy', nextNote: '' },
  });
});
