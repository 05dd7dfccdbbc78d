import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { runFio } from '../../benchmarks/src/fio/fio.ts';
import { startPeer, type PeerName } from '../../benchmarks/src/servers/peer.ts';

const sizeBytes = 16 * 1024 * 1024;

/** They take half a minute, GiB of disk, root and Debian's packages, so only who asks gets them. */
const skip = process.env['STOR_BENCH_PEERS'] === '1' ? false : 'set STOR_BENCH_PEERS=1 for it';

for (const name of ['gluster', 'ceph'] satisfies PeerName[]) {
  t.test(`${name} starts, keeps what is written, and leaves nothing`, { skip }, async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'stor-peer-'));
    t.teardown(() => rmSync(dir, { recursive: true, force: true }));
    const peer = await startPeer(name, dir, sizeBytes);
    const { env = {} } = peer;
    const pids = peer.pids();
    t.ok(pids.length > 3);
    const verify = {
      rw: 'randwrite',
      bs: '4k',
      iodepth: '8',
      size: String(sizeBytes),
      verify: 'crc32c',
    };
    const result = await runFio({ uri: peer.target, env, dir, options: verify });
    t.equal(result.error, 0);
    t.ok(result.write.ios >= sizeBytes / 4096 && result.read.ios >= sizeBytes / 4096);
    await peer.close();
    await peer.close();
    const alive = new Set(readdirSync('/proc'));
    t.same(
      pids.filter((pid) => alive.has(String(pid))),
      [],
    );
    await t.rejects(
      runFio({ uri: peer.target, env, dir, options: verify, timeoutMs: 5_000 }).then(
        ({ error }) => {
          if (error !== 0) throw new Error('nobody serves');
        },
      ),
    );
  });
}
