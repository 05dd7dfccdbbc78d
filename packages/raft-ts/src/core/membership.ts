import { RaftError } from '../errors.ts';
import { BytesReader, BytesWriter } from './bytes.ts';
import { maxVoters } from './limits.ts';
import type { PeerId } from './types.ts';

/**
 * Who takes part. All lists are sorted and hold no name twice.
 *
 * A membership is *joint* while `outgoing` is not empty: then every decision needs a majority of
 * `voters` and, apart from it, a majority of `outgoing` (Raft paper, section 6; thesis, section
 * 4.3).
 */
export interface Membership {
  /** who decides; of a joint membership the half that will stay */
  voters: PeerId[];
  /** of a joint membership the voters from before; else empty */
  outgoing: PeerId[];
  /** they get the log and neither vote nor count */
  learners: PeerId[];
  /** voters of `outgoing` that become learners when the joint membership is left */
  learnersNext: PeerId[];
  /** the leader leaves the joint membership by itself as soon as it is applied */
  autoLeave: boolean;
}

/**
 * One wish. `addVoter` promotes a learner, `addLearner` demotes a voter; what is so already is no
 * error, so that a call whose outcome is unknown can be repeated.
 */
export interface MemberChange {
  type: 'addVoter' | 'addLearner' | 'remove';
  id: PeerId;
}

export function membershipOf(voters: readonly PeerId[]): Membership {
  return {
    voters: sorted(voters),
    outgoing: [],
    learners: [],
    learnersNext: [],
    autoLeave: false,
  };
}

export function isJoint(membership: Membership): boolean {
  return membership.outgoing.length > 0;
}

/** Everybody who is sent the log, sorted. */
export function everyMember(membership: Membership): PeerId[] {
  const { voters, outgoing, learners } = membership;
  return sorted(new Set([...voters, ...outgoing, ...learners]));
}

/** Its vote counts: in a joint membership in one half at least. */
export function isVoter(membership: Membership, id: PeerId): boolean {
  return membership.voters.includes(id) || membership.outgoing.includes(id);
}

function sorted(ids: Iterable<PeerId>): PeerId[] {
  return [...ids].sort();
}

/**
 * The membership after these changes. One voter more or less is made in one step, as each majority
 * of before and each of after have a member in common; anything more enters a joint membership.
 * With `joint` even one change does. Throws INVALID_ARGUMENT.
 */
export function changed(current: Membership, changes: MemberChange[], joint = false): Membership {
  const refuse = (reason: string): never => {
    throw new RaftError('INVALID_ARGUMENT', `the members cannot be changed so: ${reason}`);
  };
  if (isJoint(current)) refuse('the change before this one is not finished');
  const before = new Set(current.voters);
  const voters = new Set(current.voters);
  const learners = new Set(current.learners);
  for (const { type, id } of changes) {
    if (id === '') refuse('a member needs a name');
    voters.delete(id);
    learners.delete(id);
    if (type === 'addVoter') voters.add(id);
    if (type === 'addLearner') learners.add(id);
  }
  if (new Set(changes.map(({ id }) => id)).size < changes.length) refuse('a member is named twice');
  if (voters.size === 0) refuse('no voter would be left');
  if (voters.size + learners.size > maxVoters) refuse(`there would be more than ${maxVoters}`);
  const difference = [...before, ...voters].filter((id) => before.has(id) !== voters.has(id));
  if (difference.length <= 1 && !joint) {
    return { ...membershipOf([...voters]), learners: sorted(learners) };
  }
  return {
    voters: sorted(voters),
    outgoing: sorted(before),
    // who still votes in the outgoing half cannot be a learner at the same time
    learners: sorted([...learners].filter((id) => !before.has(id))),
    learnersNext: sorted([...learners].filter((id) => before.has(id))),
    autoLeave: true,
  };
}

/** The end of a joint membership. */
export function left(joint: Membership): Membership {
  const learners = sorted(new Set([...joint.learners, ...joint.learnersNext]));
  return { ...membershipOf(joint.voters), learners };
}

export function sameMembership(a: Membership, b: Membership): boolean {
  return describeMembership(a) === describeMembership(b);
}

/** As people read it, for messages and scenarios: `1 2 3 & 1 2, learners 4`. */
export function describeMembership(membership: Membership): string {
  const { voters, outgoing, learners, learnersNext, autoLeave } = membership;
  const parts = [voters.join(' ')];
  if (outgoing.length > 0) parts[0] += ` & ${outgoing.join(' ')}`;
  if (learners.length > 0) parts.push(`learners ${learners.join(' ')}`);
  if (learnersNext.length > 0) parts.push(`learners next ${learnersNext.join(' ')}`);
  if (autoLeave) parts.push('leaves by itself');
  return parts.join(', ');
}

/** Its bytes on the wire and in stores: four lists of names and a flag. */
export function writeMembership(writer: BytesWriter, membership: Membership): void {
  const { voters, outgoing, learners, learnersNext, autoLeave } = membership;
  for (const ids of [voters, outgoing, learners, learnersNext]) {
    writer.u8(ids.length);
    for (const id of ids) writer.text(id);
  }
  writer.u8(autoLeave ? 1 : 0);
}

export function readMembership(reader: BytesReader): Membership {
  const list = (): PeerId[] => {
    const count = reader.u8();
    if (count > maxVoters) reader.fail(`${count} members`);
    return Array.from({ length: count }, () => reader.text());
  };
  return {
    voters: list(),
    outgoing: list(),
    learners: list(),
    learnersNext: list(),
    autoLeave: reader.flag(),
  };
}

/** The data of a `config` entry: the whole membership that holds once the entry is applied. */
export function encodeMembership(membership: Membership): Uint8Array {
  const writer = new BytesWriter();
  writeMembership(writer, membership);
  return writer.finish();
}

/** Throws CORRUPT. */
export function decodeMembership(data: Uint8Array): Membership {
  const reader = new BytesReader(data, 'a change of members');
  const membership = readMembership(reader);
  reader.expectEnd();
  return membership;
}
