import fc from 'fast-check';

interface On {
  /** which of the replicas, and which of its snapshots: counted round */
  replica: number;
}
interface Range {
  chunk: number;
  block: number;
  count: number;
}

/** Some operations on some file fail, from the one after `skip` others on. */
export interface Fault {
  operation:
    'open' | 'create' | 'read' | 'write' | 'datasync' | 'punch' | 'rename' | 'syncDirectory';
  code: 'EIO' | 'ENOSPC';
  /** part of the file's path */
  file: string;
  skip: number;
  times: number;
}

export type SnapshotCommand = On &
  (
    | ({ kind: 'write'; inline: boolean } & Range)
    | ({ kind: 'zero'; keep: boolean } & Range)
    | ({ kind: 'read'; snapshot: number | null } & Range)
    | ({ kind: 'fill'; pick: number; zero: boolean } & Range)
    | { kind: 'flush' | 'fence' | 'view' | 'cut' | 'retire' | 'settle' | 'verify' | 'remove' }
    | { kind: 'take'; incomplete: boolean }
    | { kind: 'confirm' | 'drop' | 'rollback' | 'complete'; pick: number }
    | { kind: 'clone'; pick: number; larger: number }
    | { kind: 'resize'; blocks: number }
    | { kind: 'reopen' | 'kill' | 'power' | 'room' }
    | { kind: 'full'; chunks: number }
    | ({ kind: 'fault' } & Fault)
    | {
        kind: 'crash';
        after: number;
        power: boolean;
        again: { after: number; power: boolean } | null;
      }
  );

/** Few places, so that calls collide, and at every kind of border. */
const chunk = fc.constantFrom(0, 0, 1, 1, 2, 15, 16, 31, 33);
const block = fc.constantFrom(0, 1, 2, 31, 62, 63);
const small = { chunk, block, count: fc.integer({ min: 1, max: 4 }) };
const whole = { chunk, block: fc.constant(0), count: fc.constantFrom(64, 64, 128) };
const pick = fc.nat(7);
const replica = fc.nat(5);

function one<T extends object>(
  weight: number,
  fields: { [K in keyof T]: fc.Arbitrary<T[K]> },
): { weight: number; arbitrary: fc.Arbitrary<T & On> } {
  return { weight, arbitrary: fc.record({ ...fields, replica }) as fc.Arbitrary<T & On> };
}

const is = <T extends string>(kind: T): fc.Arbitrary<T> => fc.constant(kind);
const crash = { after: fc.integer({ min: 1, max: 60 }), power: fc.boolean() };

const fault = {
  operation: fc.constantFrom<Fault['operation']>(
    ...(['read', 'read', 'read', 'write', 'write', 'datasync', 'datasync', 'punch'] as const),
    ...(['open', 'create', 'rename', 'syncDirectory'] as const),
  ),
  code: fc.constantFrom<Fault['code']>('EIO', 'EIO', 'ENOSPC'),
  file: fc.constantFrom(
    '',
    'data',
    'data',
    'sums',
    'slots',
    'layers',
    'regions',
    'journal',
    'image',
  ),
  skip: fc.nat(3),
  times: fc.constantFrom(1, 1, 2, 70),
};

export const snapshotCommand: fc.Arbitrary<SnapshotCommand> = fc.oneof(
  one(20, { kind: is('write'), ...small, inline: fc.boolean() }),
  one(4, { kind: is('write'), ...whole, inline: fc.constant(false) }),
  one(4, { kind: is('zero'), ...small, keep: fc.boolean() }),
  one(5, { kind: is('zero'), ...whole, keep: fc.constantFrom(false, false, true) }),
  one(6, { kind: is('read'), ...small, snapshot: fc.option(pick) }),
  one(2, { kind: is('read'), ...whole, snapshot: fc.option(pick) }),
  one(8, { kind: is('flush') }),
  one(6, { kind: fc.constantFrom('fence', 'view', 'cut', 'retire', 'cut', 'retire') }),
  one(6, { kind: is('settle') }),
  one(1, { kind: is('verify') }),
  one(8, { kind: is('take'), incomplete: fc.constantFrom(false, false, false, true) }),
  one(8, { kind: is('confirm'), pick }),
  one(5, { kind: is('drop'), pick }),
  one(4, { kind: is('rollback'), pick }),
  one(4, { kind: is('clone'), pick, larger: fc.constantFrom(0, 0, 1, 64, 700) }),
  one(1, { kind: is('remove') }),
  one(1, { kind: is('resize'), blocks: fc.constantFrom(0, 1, 63, 64, 1024) }),
  one(5, { kind: is('fill'), ...small, pick, zero: fc.constantFrom(false, false, true) }),
  one(2, { kind: is('fill'), ...whole, pick, zero: fc.boolean() }),
  one(3, { kind: is('complete'), pick }),
  one(3, { kind: fc.constantFrom('reopen', 'kill', 'power') }),
  one(5, { kind: is('crash'), ...crash, again: fc.option(fc.record(crash)) }),
  one(1, { kind: is('full'), chunks: fc.nat(3) }),
  one(2, { kind: is('room') }),
  one(5, { kind: is('fault'), ...fault }),
);
