import { hasCode, StorError } from '@stor/protocol';
import type { Disk, Node, Policy, StorApi, Tenant, Volume } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ClusterStore, Operation } from '../cluster-store.ts';
import { changeRules, requestText, usedForAnother } from '../core/requests/change-rules.ts';
import type { ChangeRule } from '../core/requests/change-rules.ts';
import { decodeVolume, encodeRecord } from '../resources/records.ts';
import type { StateCache } from '../resources/state-cache.ts';
import { inChangeScope, MadeElsewhere, versionConflict } from './change-scope.ts';
import type { ChangeScope } from './change-scope.ts';
import { ChangedObjects } from './changed-objects.ts';
import type { NamedObject } from './changed-objects.ts';
import { hashOf, RequestLedger } from './request-ledger.ts';
import type { KnownRequest } from './request-ledger.ts';
import type { CallContext, UnaryMethod } from './serve-unary.ts';
import type { SnapshotService } from './snapshot-service.ts';

/** Chosen by clients, and part of a key of the store. */
const requestIdPattern = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/;
const maxConflicts = 20;

type Guards = { requestId?: string; resourceVersion?: number; plan?: boolean };

interface GuardOptions {
  store: ClusterStore;
  ledger: RequestLedger;
  objects: ChangedObjects;
  logger: Logger;
}

interface Change {
  method: string;
  rule: ChangeRule;
  run: (request: object) => Promise<object>;
  request: object & Guards;
}

/** The code says that nothing was changed. */
const refusals = [
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'FAILED_PRECONDITION',
  'PERMISSION_DENIED',
  'CONFLICT',
  'NO_SPACE',
  'ATTACHED_ELSEWHERE',
  'IN_USE',
  'UNSAFE',
  'UNSAFE_PLAN',
] as const;

/**
 * The methods of the API with `resourceVersion` (CONFLICT when the object is not at it) and
 * `requestId` (the same request again gives the same answer, on any node) for every change that
 * `changeRules` knows. Requests with neither cost nothing.
 */
export function guardedMethods<M extends Record<string, UnaryMethod>>(
  methods: M,
  options: GuardOptions,
): M {
  const guards = new ChangeGuards(options);
  const rules: Readonly<Record<string, ChangeRule | undefined>> = changeRules;
  const wrapped = Object.entries(methods).map(([method, plain]): [string, UnaryMethod] => {
    const rule = rules[method];
    if (!rule) return [method, plain];
    return [
      method,
      (request: object & Guards, context: CallContext) => {
        const run = (asked: object): Promise<object> => plain(asked as never, context);
        return guards.answer({ method, rule, run, request });
      },
    ];
  });
  return Object.fromEntries(wrapped) as M;
}

/** `guardedMethods` for the methods of `storService`, with a ledger of its own; `undo` closes that. */
export function withChangeGuards<M extends Record<keyof StorApi, UnaryMethod>>(
  plain: M,
  parts: {
    store: ClusterStore;
    cache: StateCache;
    snapshots: SnapshotService;
    clock: Clock;
    logger: Logger;
  },
  undo: (() => void)[],
): M {
  const ledger = new RequestLedger(parts);
  undo.push(() => {
    ledger.close();
  });
  const here: CallContext = { signal: new AbortController().signal, header: () => '' };
  const ask = (method: UnaryMethod, request: object): Promise<object> =>
    method(request as never, here);
  const shown = {
    node: (name: string) => ask(plain.getNode, { name }) as Promise<Node>,
    volume: (name: string) => ask(plain.getVolume, { name }) as Promise<Volume>,
    disks: async () => ((await ask(plain.listDisks, {})) as { disks: Disk[] }).disks,
    policy: (name: string) => ask(plain.getPolicy, { name }) as Promise<Policy>,
    tenant: (name: string) => ask(plain.getTenant, { name }) as Promise<Tenant>,
  };
  const objects = new ChangedObjects({ ...parts, shown });
  return guardedMethods(plain, { ...parts, ledger, objects });
}

class ChangeGuards {
  readonly #options: GuardOptions;

  constructor(options: GuardOptions) {
    this.#options = options;
  }

  async answer(change: Change): Promise<object> {
    const { request, run } = change;
    const { resourceVersion: version = 0 } = request;
    const requestId = request.plan === true ? '' : (request.requestId ?? '');
    if (requestId === '' && version === 0) return run(request);
    if (requestId !== '') checkRequestId(requestId);
    for (let conflicts = 0; conflicts < maxConflicts; conflicts++) {
      const known = requestId === '' ? null : await this.#options.ledger.get(requestId);
      try {
        if (known) return await this.#again(change, known);
        const object = await this.#objectOf(change, version);
        if (requestId === '') return await this.#execute(change, object, null);
        const text = requestText(change.method, request);
        const compare =
          object && version > 0 ? [{ key: object.key, modRevision: object.modRevision }] : [];
        const wanted = { text, objectId: object?.id ?? '' };
        const begun = await this.#options.ledger.begin(requestId, wanted, compare);
        if (begun) return await this.#execute(change, object, begun);
      } catch (error) {
        if (!(error instanceof MadeElsewhere)) throw error;
      }
    }
    throw new StorError('CONFLICT', `request ${requestId} is answered elsewhere too: try again`);
  }

  /** null: the change is about no object, or about one that only the method itself knows. */
  async #objectOf({ rule, request, method }: Change, version: number): Promise<NamedObject | null> {
    const name = (request as Record<string, unknown>)[rule.field];
    if (rule.kind === null || typeof name !== 'string' || name === '') {
      if (version === 0) return null;
      throw new StorError(
        'INVALID_ARGUMENT',
        `${method} is about no single object here: a resource version means nothing to it`,
      );
    }
    try {
      const object = await this.#options.objects.find(rule.kind, name);
      if (version === 0 || object.modRevision === version) return object;
      throw versionConflict(object.modRevision, version);
    } catch (error) {
      // the method says what is missing in its own words, or knows of more
      if (version === 0 && hasCode(error, 'NOT_FOUND')) return null;
      throw error;
    }
  }

  async #again(change: Change, known: KnownRequest): Promise<object> {
    const { record } = known;
    if (record.hash !== hashOf(requestText(change.method, change.request))) {
      throw usedForAnother(change.request.requestId ?? '');
    }
    if (record.answer !== undefined) return JSON.parse(record.answer) as object;
    const { answer } = change.rule;
    if (record.state === 'made' && answer !== undefined) {
      return this.#options.objects.answer(answer, record.objectId, record.note ?? '');
    }
    const object = record.objectId === '' ? null : { id: record.objectId };
    try {
      return await this.#execute(change, object, known);
    } catch (error) {
      const isGone = change.rule.ends === true && hasCode(error, 'NOT_FOUND');
      const done = isGone && answer !== undefined ? answer : null;
      if (done !== null) return this.#options.objects.answer(done, record.objectId, '');
      const { request, method } = change;
      const left =
        change.rule.gone !== undefined && hasCode(error, 'NOT_FOUND')
          ? await this.#options.objects.leftNode(record.objectId, request)
          : null;
      if (left !== null) return left;
      const made = method === 'addDisk' && hasCode(error, 'ALREADY_EXISTS');
      if (!made) throw error;
      return this.#options.objects.diskAt(request as { node: string; path: string });
    }
  }

  /** `object` of a repetition has only its id: its version was compared when the request was taken. */
  async #execute(
    change: Change,
    object: NamedObject | { id: string } | null,
    known: KnownRequest | null,
  ): Promise<object> {
    const { rule, request, run } = change;
    const version = request.resourceVersion ?? 0;
    // by its id: by now another one may have the name
    const asked = object ? { ...request, [rule.field]: object.id } : request;
    const isFirst = object !== null && 'key' in object;
    const scope: ChangeScope | null =
      object && rule.kind
        ? {
            objectKey: isFirst ? object.key : this.#options.objects.keyOf(rule.kind, object.id),
            expected: isFirst && version > 0 && isAtomic(rule, object) ? version : null,
            mark: known && markOf(change, known),
            isMade: known?.record.state === 'made',
            isOver: false,
          }
        : null;
    try {
      const answer = await (scope ? inChangeScope(scope, () => run(asked)) : run(asked));
      if (known) await this.#options.ledger.finish(latest(known, scope), answer);
      return answer;
    } catch (error) {
      const hasChanged = scope?.isMade === true || known?.record.state === 'made';
      if (known && isFirst && !hasChanged && hasCode(error, ...refusals)) {
        await this.#options.ledger.forget(known);
      }
      throw error;
    }
  }
}

function checkRequestId(requestId: string): void {
  if (requestIdPattern.test(requestId)) return;
  throw new StorError(
    'INVALID_ARGUMENT',
    `request id ${JSON.stringify(requestId.slice(0, 128))} is not valid: 1 to 128 letters, digits, "_", ".", ":" or "-", the first one a letter or digit`,
  );
}

/** Other nodes change the object as part of a change in steps: only its beginning can be compared. */
function isAtomic(rule: ChangeRule, object: NamedObject): boolean {
  return rule.form === 'once' || (rule.ends === true && object.isIdle);
}

function latest(known: KnownRequest, scope: ChangeScope | null): KnownRequest {
  return { ...known, modRevision: scope?.mark?.modRevision ?? known.modRevision };
}

/** Which write makes the change, and the entry that goes with it; null: none of them alone does. */
function markOf({ rule, method }: Change, known: KnownRequest): ChangeScope['mark'] {
  const { key, modRevision, record } = known;
  const value = (operation: Operation): Uint8Array => {
    const note = method === 'rollbackVolume' ? (rollbackIn(operation)?.safetyId ?? '') : '';
    return encodeRecord({ ...record, state: 'made', ...(note === '' ? {} : { note }) });
  };
  if (rule.form === 'once') return { key, modRevision, value, isMade: () => true };
  if (method === 'rollbackVolume') {
    return { key, modRevision, value, isMade: (operation) => rollbackIn(operation) !== null };
  }
  if (rule.ends !== true) return null;
  return { key, modRevision, value, isMade: ({ type }) => type === 'delete' };
}

function rollbackIn(operation: Operation): { safetyId: string } | null {
  if (operation.type !== 'put') return null;
  return decodeVolume(operation.key, operation.value).status.rollback ?? null;
}
