import { createHash } from 'node:crypto';

import t from 'tap';

import { blockHashBytes, hashBlocks } from '../src/index.ts';

t.test('hashes each block by itself, as any SHA-256 does', async (t) => {
  const bytes = Buffer.from(Array.from({ length: 100 }, (_, i) => (i * 37) & 0xff));
  const into = Buffer.alloc(3 + 3 * blockHashBytes, 0xee);
  hashBlocks(bytes, 5, 3, 30, into, 3);
  for (let block = 0; block < 3; block++) {
    const from = 5 + block * 30;
    const digest = createHash('sha256')
      .update(bytes.subarray(from, from + 30))
      .digest();
    const at = 3 + block * blockHashBytes;
    t.same(into.subarray(at, at + blockHashBytes), digest.subarray(0, blockHashBytes));
  }
  t.same(into.subarray(0, 3), Buffer.alloc(3, 0xee), 'nothing else is touched');
});
