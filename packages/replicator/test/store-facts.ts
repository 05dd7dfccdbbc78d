import { createHash } from 'node:crypto';
import { blocksPerChunk, chunkBytes } from '@stor/protocol';
import type {
  DiskStore,
  Generation,
  GenerationHistory,
  ReplicaStore,
  SetView,
} from '../src/index.ts';
import { call } from './store-fixture.ts';

/** Everything that a replica promises to remember, and a hash of every byte. */
export interface ReplicaFacts {
  replicaId: string;
  volumeId: string;
  segment: number;
  sizeBytes: number;
  highestEpoch: number;
  setView: SetView | null;
  generation: Generation;
  keptMemory: boolean;
  failure: string | null;
  marks: number[];
  history: { after: Generation; generations: Generation[]; regions: number[] };
  allocatedBytes: number;
  /** of each chunk that reads as data: SHA-256 of its bytes, and which blocks verify ('' when all do) */
  chunks: [chunk: number, sha256: string, valid: string][];
}

export async function factsOf(store: DiskStore): Promise<ReplicaFacts[]> {
  const facts: ReplicaFacts[] = [];
  for (const replica of store.replicas()) facts.push(await replicaFacts(replica));
  return facts.sort((a, b) => a.replicaId.localeCompare(b.replicaId));
}

async function replicaFacts(replica: ReplicaStore): Promise<ReplicaFacts> {
  const { replicaId, volumeId, segment, sizeBytes, highestEpoch } = replica;
  const { setView, generation, keptMemory, allocatedBytes } = replica;
  return {
    ...{ replicaId, volumeId, segment, sizeBytes, highestEpoch, setView, generation },
    ...{ keptMemory, allocatedBytes },
    failure: replica.failure?.message ?? null,
    marks: replica.marks(),
    history: plain(replica.history()),
    chunks: replica.failure ? [] : await chunksOf(replica),
  };
}

function plain(history: GenerationHistory): ReplicaFacts['history'] {
  return { ...history, regions: [...history.regions] };
}

async function chunksOf(replica: ReplicaStore): Promise<ReplicaFacts['chunks']> {
  const chunks: ReplicaFacts['chunks'] = [];
  const end = Math.ceil(replica.sizeBytes / 4096) * 4096;
  for (let chunk = 0; chunk * chunkBytes < end; chunk++) {
    if (!replica.isAllocated(chunk)) continue;
    const length = Math.min(chunkBytes, end - chunk * chunkBytes);
    const bytes = Buffer.alloc(length, 0xee);
    const valid = new Uint8Array(blocksPerChunk).subarray(0, length / 4096);
    await call((done) => {
      replica.readUnverified(chunk * chunkBytes, length, bytes, 0, valid, done);
    });
    const states = valid.every((state) => state === 1) ? '' : valid.join('');
    chunks.push([chunk, createHash('sha256').update(bytes).digest('hex'), states]);
  }
  return chunks;
}
