import { LevelRaftStorage, RaftNode, type Entry, type RaftStateMachine } from 'raft-ts';
import { MemoryNetwork } from 'raft-ts/testing';

/** A number that three members agree on. */
class Counter implements RaftStateMachine {
  value = 0;

  apply(entries: Entry[]): number[] {
    return entries.map(({ data }) => (this.value += new DataView(data.buffer).getInt32(0)));
  }
  snapshot(): Uint8Array[] {
    return [new TextEncoder().encode(String(this.value))];
  }
  async restore(pieces: AsyncIterable<Uint8Array>): Promise<void> {
    let text = '';
    for await (const piece of pieces) text += new TextDecoder().decode(piece);
    this.value = Number(text);
  }
}

const clock = {
  monotonicMs: () => performance.now(),
  after(delayMs: number, fn: () => void) {
    const timer = setTimeout(fn, delayMs);
    return () => clearTimeout(timer);
  },
};

/** Starts three members in this process, adds up numbers, and tells what each member has. */
export async function countTogether(folder: string, numbers: number[]): Promise<number[]> {
  const ids = ['a', 'b', 'c'];
  const network = new MemoryNetwork(); // yours would be TCP: encodeMessages, decodeMessages
  const members = await Promise.all(
    ids.map(async (id) => {
      const counter = new Counter();
      const storage = await LevelRaftStorage.open(`${folder}/${id}`);
      const node = await RaftNode.open({
        id,
        initialVoters: ids,
        storage,
        stateMachine: counter,
        transport: network.transport(id),
        clock,
        random: Math.random,
        tickMs: 50,
        onFatal: (error) => console.error('this member has stopped', error),
      });
      network.join(id, (messages) => node.step(messages));
      return { node, counter, storage };
    }),
  );

  const leader = await new Promise<RaftNode>((resolve) => {
    for (const { node } of members) {
      const look = () => node.status().role === 'leader' && resolve(node);
      node.onRoleChange(look);
      look();
    }
  });
  let last = 0;
  for (const number of numbers) {
    const data = new Uint8Array(4);
    new DataView(data.buffer).setInt32(0, number);
    const { index, result } = await leader.propose(data);
    console.error(`added ${number} at index ${index}: ${String(result)}`);
    last = index;
  }

  await Promise.all(members.map(({ node }) => node.waitApplied(last)));
  for (const { node, storage } of members) {
    await node.close();
    await storage.close();
  }
  return members.map(({ counter }) => counter.value);
}
