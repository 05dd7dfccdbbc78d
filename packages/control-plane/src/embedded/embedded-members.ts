import { StorError } from '@stor/protocol';
import { RaftError, type RaftNode } from 'raft-ts';
import type {
  MemberChange,
  StoreCallOptions,
  StoreMember,
  StoreMembers,
} from '../cluster-store.ts';
import { decodeEnvelope, encodeEnvelope } from '../core/kv/envelope.ts';
import { countField, listField, objectField, textField } from '../core/kv/field.ts';
import type { LeaderCall } from './leader-calls.ts';
import type { MemberAddress, MemberBook } from './member-book.ts';
import { fromRaft } from './raft-errors.ts';

/** The members of the embedded store, as its Raft node has them. */
export class EmbeddedMembers implements StoreMembers {
  readonly storeId: string;
  readonly #node: RaftNode;
  readonly #book: MemberBook;
  readonly #run: <T>(call: LeaderCall<T>, options: StoreCallOptions) => Promise<T>;

  constructor(options: {
    node: RaftNode;
    book: MemberBook;
    storeId: string;
    /** carries a call to the leader */
    run: <T>(call: LeaderCall<T>, options: StoreCallOptions) => Promise<T>;
  }) {
    this.#node = options.node;
    this.#book = options.book;
    this.storeId = options.storeId;
    this.#run = options.run;
  }

  local(): { voters: string[]; learners: string[] } {
    const { voters, outgoing, learners } = this.#node.members();
    return { voters: [...new Set([...voters, ...outgoing])].sort(), learners };
  }

  has(id: string): boolean {
    const { voters, learners } = this.local();
    return voters.includes(id) || learners.includes(id);
  }

  addresses(): MemberAddress[] {
    return this.#book.all();
  }

  read(options: StoreCallOptions = {}): Promise<StoreMember[]> {
    return this.#run(
      {
        writes: false,
        method: 'Members',
        request: encodeEnvelope({}),
        local: async () => this.#here(),
        decode: decodeMembers,
      },
      options,
    );
  }

  /** To another member that has asked. */
  answer(): Uint8Array {
    return encodeEnvelope({ members: this.#here() });
  }

  async change(changes: MemberChange[], signal: AbortSignal): Promise<void> {
    try {
      await this.#node.changeMembership(changes, { signal });
    } catch (error) {
      if (error instanceof RaftError && error.code === 'INVALID_ARGUMENT') {
        throw new StorError('FAILED_PRECONDITION', error.message, { cause: error });
      }
      throw error instanceof RaftError && error.code === 'CHANGE_PENDING'
        ? new StorError('UNAVAILABLE', error.message, { cause: error })
        : fromRaft(error);
    }
  }

  #here(): StoreMember[] {
    const { role, commitIndex } = this.#node.status();
    if (role !== 'leader') throw new StorError('UNAVAILABLE', 'this member does not lead');
    const { voters } = this.local();
    const known = new Map(this.#node.peers().map((peer) => [peer.id, peer]));
    return [...voters, ...this.local().learners.filter((id) => !voters.includes(id))].map((id) => {
      const matchIndex = known.get(id)?.match ?? 0;
      return {
        id,
        role: id === this.#node.id ? 'leader' : voters.includes(id) ? 'voter' : 'learner',
        address: this.#book.address(id) ?? '',
        matchIndex,
        lagEntries: Math.max(0, commitIndex - matchIndex),
        isCaughtUp: known.get(id)?.isCaughtUp ?? false,
      };
    });
  }
}

function decodeMembers(bytes: Uint8Array): StoreMember[] {
  const { header } = decodeEnvelope(bytes);
  return listField(header['members'], 'members').map((item) => {
    const field = objectField(item, 'member');
    return {
      id: textField(field['id'], 'id'),
      role: textField(field['role'], 'role') as StoreMember['role'],
      address: textField(field['address'], 'address'),
      matchIndex: countField(field['matchIndex'], 'matchIndex'),
      lagEntries: countField(field['lagEntries'], 'lagEntries'),
      isCaughtUp: field['isCaughtUp'] === true,
    };
  });
}
