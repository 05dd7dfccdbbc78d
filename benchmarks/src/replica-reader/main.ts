import { readReplica } from './read-replica.ts';

const [disk, replicaId, image] = process.argv.slice(2);
if (disk === undefined || replicaId === undefined || image === undefined) {
  process.stderr.write(
    'usage: main.js DISK REPLICA IMAGE: writes the bytes of a replica, its agent being stopped\n',
  );
  process.exitCode = 2;
} else {
  const facts = readReplica(disk, replicaId, image);
  process.stdout.write(`${JSON.stringify(facts, null, 2)}\n`);
  process.exitCode = facts.badBlocks === 0 && facts.problems.length === 0 ? 0 : 10;
}
