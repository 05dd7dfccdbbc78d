/** What a scrub decides of a chunk, and how fast it may go. */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';

import { ScrubBudget } from '../src/core/replication/scrub-budget.ts';
import { judgeChunk } from '../src/core/replication/scrub-choice.ts';
import { hashBytes, type ChunkSums } from '../src/core/replication/settle-choice.ts';
import { VolumeScrub } from '../src/primary/volume-scrub.ts';
import { noCounts, type SegmentScrubOrder } from '../src/primary/scrubber.ts';

/** A block as one member has it: what it holds, and whether it verifies. */
interface Held {
  content: number;
  state: 0 | 1 | 2;
}

const held = fc.record({
  content: fc.constantFrom(1, 1, 1, 2, 3),
  state: fc.constantFrom<0 | 1 | 2>(1, 1, 1, 0, 2),
});
const chunk = fc
  .tuple(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 6 }))
  .chain(([members, blocks]) =>
    fc.array(fc.array(held, { minLength: blocks, maxLength: blocks }), {
      minLength: members,
      maxLength: members,
    }),
  );

function sumsOf(blocks: readonly Held[]): ChunkSums {
  const hashes = new Uint8Array(blocks.length * hashBytes);
  blocks.forEach(({ content }, block) =>
    hashes.fill(content, block * hashBytes, (block + 1) * hashBytes),
  );
  return { hashes, valid: Uint8Array.from(blocks, ({ state }) => state) };
}

/** The same in the plainest words: whose content stands for a block; null: nobody can say. */
function truthOf(at: readonly Held[]): number | null {
  const votes = new Map<number, number>();
  for (const { content, state } of at) {
    if (state === 1) votes.set(content, (votes.get(content) ?? 0) + 1);
  }
  if (votes.size === 0) return null;
  if (votes.size === 1) return [...votes.keys()][0] ?? null;
  if (at.length < 3) return null;
  return [...votes].find(([, count]) => count > at.length / 2)?.[0] ?? null;
}

t.test('a chunk is judged as plain words say', (t) => {
  fc.assert(
    fc.property(chunk, (members) => {
      const choice = judgeChunk(members.map(sumsOf));
      const blocks = members[0]?.length ?? 0;
      for (let block = 0; block < blocks; block++) {
        const at = members.flatMap((member) => member[block] ?? []);
        const truth = truthOf(at);
        const bad = at.flatMap(({ state }, member) => (state === 1 ? [] : [{ block, member }]));
        const of = <T extends { block: number }>(list: readonly T[]): T[] =>
          list.filter((each) => each.block === block);
        const good = at.filter(({ state }) => state === 1).length;
        const wrong = at.flatMap(({ content, state }, member) =>
          truth !== null && (state !== 1 || content !== truth) ? [member] : [],
        );
        const rewrites = of(choice.rewrites);
        assert.deepEqual(of(choice.bad), bad);
        assert.deepEqual(of(choice.kept), good === 0 ? bad : []);
        assert.equal(choice.diverged.includes(block), good > 0 && truth === null);
        assert.deepEqual(
          rewrites.map(({ member }) => member),
          wrong,
        );
        for (const { source } of rewrites) {
          assert.deepEqual({ ...at[source] }, { content: truth, state: 1 });
        }
      }
    }),
    { numRuns: 400 },
  );
  t.end();
});

t.test('a budget gives what its rate says, and no more after a pause', (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1_000, max: 1_000_000 }),
      fc.array(fc.integer({ min: 0, max: 400 }), { minLength: 20, maxLength: 200 }),
      (rate, waits) => {
        const budget = new ScrubBudget(0);
        budget.rate = rate;
        const piece = 256;
        let nowMs = 0;
        let taken = 0;
        for (const wait of waits) {
          nowMs += wait;
          while (budget.waitMs(nowMs) === 0) {
            budget.take(piece);
            taken += piece;
          }
          const askAgainMs = budget.waitMs(nowMs);
          if (askAgainMs <= 0 || budget.waitMs(nowMs + askAgainMs) !== 0) return false;
          nowMs += askAgainMs;
        }
        return taken <= (rate * nowMs) / 1_000 + piece * 2;
      },
    ),
  );
  t.end();
});

t.test('segments are scrubbed one after the other, and counted together', (t) => {
  const asked: string[] = [];
  const chunks = [0, 0, 0];
  const scrub = new VolumeScrub((index) => {
    if (index >= chunks.length) return undefined;
    return ({ runId, chunk, paused }: SegmentScrubOrder) => {
      asked.push(`${runId} ${index} ${chunk}`);
      if (!paused) chunks[index] = Math.max(chunk, chunks[index] ?? 0) + 2;
      const at = chunks[index] ?? 0;
      const finished = at > 4;
      return {
        state: finished ? 'finished' : paused ? 'paused' : 'running',
        message: '',
        chunk: at,
        counts: { ...noCounts, bytes: finished ? 10 : 5, found: 1 },
        bytesRemaining: 1,
        bytesPerSecond: 2,
      };
    };
  });
  const order = {
    volumeId: 'v',
    epoch: 1,
    runId: 'one',
    position: { segment: 1, chunk: 1 },
    counts: { ...noCounts, bytes: 100, diverged: 2 },
    paused: false,
    rateBytesPerSecond: 1,
  };
  t.match(scrub.order(order), {
    state: 'running',
    position: { segment: 1, chunk: 3 },
    counts: { bytes: 105, found: 1, diverged: 2 },
  });
  t.match(scrub.order({ ...order, paused: true }), { state: 'paused' });
  t.match(scrub.order(order), { state: 'running', position: { segment: 2, chunk: 2 } });
  scrub.order(order);
  const end = { state: 'finished', counts: { bytes: 120, found: 2, diverged: 2 } };
  t.match(scrub.order(order), { ...end, position: { segment: 3, chunk: 0 }, bytesRemaining: 0 });
  t.match(scrub.order(order), end, 'and stays so');
  t.notOk(
    asked.some((text) => text.startsWith('one 0')),
    'what was done before is not done again',
  );
  t.end();
});
