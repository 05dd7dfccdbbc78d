import { StorError } from '@stor/protocol';
import type { StorApi } from '@stor/protocol';

/** What a change is about: whose version may be asked for, and whose id a repeated request keeps to. */
export type ObjectKind =
  'node' | 'disk' | 'volume' | 'trashed-volume' | 'snapshot' | 'policy' | 'tenant';

/** Where the answer of a change that was made is read, when it was not kept itself. */
export type AnswerSource =
  'node' | 'volume' | 'rolled-back' | 'snapshot' | 'deletion' | 'policy' | 'tenant' | 'empty';

export interface ChangeRule {
  /** null: it makes something, or is about all */
  kind: ObjectKind | null;
  /** the request's field that names it */
  field: 'name' | 'disk' | 'volume' | 'node';
  /**
   * - `once`: one write to the object makes the whole change, so it is told apart from others for sure
   * - `steps`: several nodes take part; doing it again ends where doing it once does
   */
  form: 'once' | 'steps';
  /** of a change that was made and whose answer is not known any more; absent: it is done again */
  answer?: AnswerSource;
  /** it ends the object: when that is gone at a repetition, the change was made */
  ends?: boolean;
  /** where the answer is read when a repetition finds the object gone, as some of these changes want it */
  gone?: 'left-node';
}

const volume = { kind: 'volume', field: 'name' } as const;
const disk = { kind: 'disk', field: 'disk' } as const;
const scrub = { kind: 'volume', field: 'volume', form: 'steps' } as const;

/**
 * Every change of the API besides those that make a volume, a snapshot or a policy, whose records keep the id
 * of the request that made them.
 */
export const changeRules: Readonly<Partial<Record<keyof StorApi, ChangeRule>>> = {
  labelNode: { kind: 'node', field: 'name', form: 'once', answer: 'node' },
  orderNode: { kind: 'node', field: 'name', form: 'once', gone: 'left-node' },
  addDisk: { kind: null, field: 'node', form: 'steps' },
  evacuateDisk: { ...disk, form: 'once' },
  setDisk: { ...disk, form: 'once' },
  removeDisk: { ...disk, form: 'steps', answer: 'empty', ends: true },
  setPool: { kind: null, field: 'name', form: 'steps' },
  updateVolume: { ...volume, form: 'once', answer: 'volume' },
  moveReplica: { ...volume, form: 'once', answer: 'volume' },
  resizeVolume: { ...volume, form: 'steps' },
  movePrimary: { ...volume, form: 'steps' },
  fenceVolume: { ...volume, form: 'steps' },
  recoverVolume: { ...volume, form: 'steps' },
  attachVolume: { ...volume, form: 'steps' },
  detachVolume: { ...volume, form: 'steps' },
  publishVolume: { ...volume, form: 'steps' },
  unpublishVolume: { ...volume, form: 'steps' },
  attachDevice: { ...volume, form: 'steps' },
  detachDevice: { ...volume, form: 'steps' },
  mountVolume: { ...volume, form: 'steps' },
  unmountVolume: { ...volume, form: 'steps' },
  growDevice: { ...volume, form: 'steps' },
  rollbackVolume: { ...volume, form: 'steps', answer: 'rolled-back' },
  deleteVolume: { ...volume, form: 'steps', answer: 'deletion', ends: true },
  undeleteVolume: { kind: 'trashed-volume', field: 'name', form: 'once', answer: 'volume' },
  emptyTrash: { kind: 'trashed-volume', field: 'name', form: 'once' },
  deleteSnapshot: {
    kind: 'snapshot',
    field: 'name',
    form: 'once',
    answer: 'empty',
    ends: true,
  },
  updatePolicy: { kind: 'policy', field: 'name', form: 'once', answer: 'policy' },
  removePolicy: { kind: 'policy', field: 'name', form: 'once', answer: 'empty', ends: true },
  setTenant: { kind: 'tenant', field: 'name', form: 'once', answer: 'tenant' },
  removeTenant: { kind: 'tenant', field: 'name', form: 'once', answer: 'empty', ends: true },
  startScrub: scrub,
  pauseScrub: scrub,
  stopScrub: scrub,
  startRebalance: { kind: null, field: 'name', form: 'steps' },
  orderRebalance: { kind: null, field: 'name', form: 'steps' },
  setQosClasses: { kind: null, field: 'name', form: 'steps' },
  setScrub: { kind: null, field: 'name', form: 'steps' },
};

/** What is empty on the wire is absent, so a request means the same to nodes that know more fields. */
function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null || value === '' || value === 0 || value === false) {
    return true;
  }
  return typeof value === 'object' && Object.keys(value).length === 0;
}

function withoutEmpty(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutEmpty);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value)
    .map(([key, inner]): [string, unknown] => [key, withoutEmpty(inner)])
    .filter(([, inner]) => !isEmpty(inner));
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** INVALID_ARGUMENT: an id names one request, and this is another one. */
export function usedForAnother(requestId: string): StorError {
  return new StorError(
    'INVALID_ARGUMENT',
    `request id ${JSON.stringify(requestId)} was used for another request: each one needs an id of its own`,
  );
}

/** Text that is the same for the same request, and differs for another one. */
export function requestText(method: string, request: object): string {
  const { requestId: _requestId, ...rest } = request as { requestId?: string };
  return `${method} ${JSON.stringify(withoutEmpty(rest))}`;
}
