/** Opens the disk named on the command line, writes one block and waits to be killed. */
import { systemFiles } from '@stor/runtime';
import { blockBytes, identity, openStore, write } from './store-fixture.ts';

const store = await openStore(process.argv[2] ?? '', systemFiles);
const replica = store.replica(identity.replicaId) ?? (await store.createReplica(identity));
await write(replica, 0, blockBytes, 42);
process.stdout.write('ready\n');
setInterval(() => {}, 60_000);
