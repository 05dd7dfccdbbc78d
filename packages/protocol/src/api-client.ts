import { randomUUID } from 'node:crypto';
import type { CallOptions, StorApi } from './api.ts';
import { hasCode, StorError } from './errors.ts';
import type { Rebuild, Scrub, VolumeExplanation } from './resources.ts';
import { RpcEndpoint } from './rpc/rpc-endpoint.ts';
import type { RpcOutcome, RpcStreamCall } from './rpc/rpc-endpoint.ts';
import { loadServices } from './rpc/services.ts';
import { watchResources } from './watch-client.ts';
import type { WatchApi } from './watch-client.ts';
import { deviceCalls } from './device-calls.ts';
import { memberCalls } from './member-calls.ts';
import { qosCalls } from './qos-calls.ts';
import { rebalanceCalls } from './rebalance-calls.ts';
import { snapshotCalls } from './snapshot-calls.ts';
import type { ApiCall } from './snapshot-calls.ts';

/** Time for one call with all its tries, unless the caller says otherwise (ms). */
const defaultCallTimeoutMs = 30_000;
/** A node that is dead costs at most this (ms); on the same machine it costs nothing. */
const connectTimeoutMs = 800;
/** A read that a node does not answer is asked of the next one after this (ms). */
const readAttemptMs = 5_000;

/**
 * - `read`: changes nothing, may be asked of any node again
 * - `repeatable`: changes something, and doing it twice is the same as once
 * - `once`: tried again only when it was certainly not done
 */
type Kind = 'read' | 'repeatable' | 'once';

const kinds: Readonly<Record<keyof StorApi, Kind>> = {
  getClusterStatus: 'read',
  listNodes: 'read',
  getNode: 'read',
  labelNode: 'once',
  // the same order again changes nothing more
  orderNode: 'repeatable',
  simulateLoss: 'read',
  planUpgrade: 'read',
  listDisks: 'read',
  addDisk: 'once',
  inspectDisk: 'read',
  evacuateDisk: 'repeatable',
  setDisk: 'repeatable',
  removeDisk: 'once',
  listPools: 'read',
  setPool: 'repeatable',
  createVolume: 'repeatable',
  listVolumes: 'read',
  getVolume: 'read',
  deleteVolume: 'once',
  attachVolume: 'once',
  detachVolume: 'once',
  // the same again finds what the first one made
  publishVolume: 'repeatable',
  unpublishVolume: 'repeatable',
  // '' is the node that answers: another one would make a second device
  attachDevice: 'once',
  detachDevice: 'once',
  mountVolume: 'once',
  unmountVolume: 'once',
  growDevice: 'once',
  listDevices: 'read',
  checkHost: 'read',
  // the same change again changes nothing more
  updateVolume: 'repeatable',
  resizeVolume: 'repeatable',
  moveReplica: 'once',
  movePrimary: 'once',
  fenceVolume: 'once',
  recoverVolume: 'once',
  explainVolume: 'read',
  listRebuilds: 'read',
  listSnapshots: 'read',
  createSnapshot: 'repeatable',
  deleteSnapshot: 'once',
  adoptSnapshot: 'once',
  diffSnapshots: 'read',
  rollbackVolume: 'once',
  cloneVolume: 'repeatable',
  undeleteVolume: 'once',
  listTrash: 'read',
  emptyTrash: 'once',
  getSnapshot: 'read',
  listEvents: 'read',
  explainPlacement: 'read',
  listPlacementViolations: 'read',
  startRebalance: 'repeatable',
  orderRebalance: 'repeatable',
  getRebalance: 'read',
  startScrub: 'repeatable',
  pauseScrub: 'repeatable',
  moveStore: 'repeatable',
  stopScrub: 'repeatable',
  listScrubs: 'read',
  setScrub: 'repeatable',
  listMembers: 'read',
  setMemberVote: 'repeatable',
  setMembers: 'repeatable',
  createToken: 'once',
  listTokens: 'read',
  removeToken: 'once',
  joinCluster: 'repeatable',
  backupCluster: 'read',
  listPolicies: 'read',
  getPolicy: 'read',
  createPolicy: 'repeatable',
  updatePolicy: 'repeatable',
  removePolicy: 'once',
  listTenants: 'read',
  getTenant: 'read',
  setTenant: 'repeatable',
  removeTenant: 'once',
  listQosClasses: 'read',
  setQosClasses: 'repeatable',
};

/** True for a method that changes something; it may carry the id of the request. */
export function isChange(method: string): boolean {
  return method in kinds && kinds[method as keyof StorApi] !== 'read';
}

export interface ApiClientOptions {
  /** host:port of the API of one or more nodes, the preferred one first */
  endpoints: string[];
  /** for each call unless it says otherwise (ms) @default 30,000 */
  timeoutMs?: number;
  /** how endpoints are called, and what time and chance are then @default gRPC and the host's */
  host?: ApiClientHost;
}

type ApiChannel = Pick<RpcEndpoint, 'address' | 'call' | 'stream' | 'close'>;

/** What a client of the API touches besides its endpoints; a simulator gives its own. */
export interface ApiClientHost {
  /** calls of the service `stor.v1.Stor` at one address */
  channel: (address: string) => Promise<ApiChannel>;
  monotonicMs: () => number;
  /** never the same again */
  newRequestId: () => string;
  /** Calls `fn` once after the time; returns the cancel. */
  after: (delayMs: number, fn: () => void) => () => void;
}

const systemHost: ApiClientHost = {
  channel: async (address) => new RpcEndpoint(address, (await loadServices()).stor),
  monotonicMs: () => performance.now(),
  newRequestId: randomUUID,
  after: (delayMs, fn) => {
    const timer = setTimeout(fn, delayMs);
    return () => {
      clearTimeout(timer);
    };
  },
};

export type ApiClient = StorApi & WatchApi & { close(): Promise<void> };

/**
 * A client of the API that lives as long as one of the endpoints does. It stays with the endpoint
 * that answered last. Throws INVALID_ARGUMENT without endpoints.
 */
export function openApiClient(options: ApiClientOptions): ApiClient {
  const caller = new FailoverCaller(options);
  const call: ApiCall = (method) => (request, callOptions) =>
    caller.call(method, request, callOptions ?? {}) as Promise<never>;
  const createVolume = call('createVolume');
  const explainVolume = call('explainVolume');
  const listRebuilds = call('listRebuilds');
  const startScrub = call('startScrub');
  const pauseScrub = call('pauseScrub');
  const stopScrub = call('stopScrub');
  const listScrubs = call('listScrubs');
  return {
    getClusterStatus: call('getClusterStatus'),
    moveStore: call('moveStore'),
    listNodes: call('listNodes'),
    getNode: call('getNode'),
    labelNode: call('labelNode'),
    orderNode: call('orderNode'),
    simulateLoss: call('simulateLoss'),
    planUpgrade: call('planUpgrade'),
    listDisks: call('listDisks'),
    addDisk: call('addDisk'),
    inspectDisk: call('inspectDisk'),
    evacuateDisk: call('evacuateDisk'),
    setDisk: call('setDisk'),
    removeDisk: call('removeDisk'),
    listPools: call('listPools'),
    setPool: call('setPool'),
    createVolume: (request, callOptions) =>
      // one id for all tries: the second try finds the volume of the first
      createVolume(
        { ...request, requestId: request.requestId ?? caller.host.newRequestId() },
        callOptions,
      ),
    listVolumes: call('listVolumes'),
    getVolume: call('getVolume'),
    deleteVolume: call('deleteVolume'),
    attachVolume: call('attachVolume'),
    detachVolume: call('detachVolume'),
    publishVolume: call('publishVolume'),
    unpublishVolume: call('unpublishVolume'),
    updateVolume: call('updateVolume'),
    resizeVolume: call('resizeVolume'),
    moveReplica: call('moveReplica'),
    movePrimary: call('movePrimary'),
    fenceVolume: call('fenceVolume'),
    recoverVolume: call('recoverVolume'),
    explainVolume: async (request, callOptions) =>
      decodedExplanation(await explainVolume(request, callOptions)),
    listRebuilds: async (request, callOptions) => {
      const { rebuilds } = await listRebuilds(request, callOptions);
      return { rebuilds: rebuilds.map(decodedRebuild) };
    },
    listEvents: call('listEvents'),
    explainPlacement: call('explainPlacement'),
    listPlacementViolations: call('listPlacementViolations'),
    ...rebalanceCalls(call),
    startScrub: async (request, callOptions) =>
      decodedScrubs(await startScrub(request, callOptions)),
    pauseScrub: async (request, callOptions) =>
      decodedScrubs(await pauseScrub(request, callOptions)),
    stopScrub: async (request, callOptions) => decodedScrubs(await stopScrub(request, callOptions)),
    listScrubs: async (request, callOptions) =>
      decodedScrubs(await listScrubs(request, callOptions)),
    setScrub: call('setScrub'),
    ...deviceCalls(call),
    ...memberCalls(call),
    ...qosCalls(call, () => caller.host.newRequestId()),
    ...snapshotCalls(call, () => caller.host.newRequestId()),
    watch: (watchOptions = {}) => watchResources(caller, watchOptions),
    close: () => caller.close(),
  };
}

/** On the wire a number that is not known is absent; here it is null. */
function decodedExplanation(wire: VolumeExplanation): VolumeExplanation {
  const causes = wire.causes.map((cause) => ({ ...cause, sinceMs: cause.sinceMs ?? null }));
  return { ...wire, causes, sinceMs: wire.sinceMs ?? null };
}

function decodedScrubs<T extends { scrubs: Scrub[] }>(wire: T): T {
  const scrubs = wire.scrubs.map((scrub) => ({
    ...scrub,
    etaMs: scrub.etaMs ?? null,
    startedAtMs: scrub.startedAtMs ?? null,
    nextDueMs: scrub.nextDueMs ?? null,
  }));
  return { ...wire, scrubs };
}

function decodedRebuild(wire: Rebuild): Rebuild {
  return { ...wire, etaMs: wire.etaMs ?? null, startedAtMs: wire.startedAtMs ?? null };
}

class FailoverCaller {
  readonly #addresses: string[];
  readonly #timeoutMs: number;
  readonly host: ApiClientHost;
  #endpoints: Promise<ApiChannel[]> | null = null;
  #preferred = 0;
  readonly #closing = new AbortController();

  constructor(options: ApiClientOptions) {
    if (options.endpoints.length === 0) {
      throw new StorError('INVALID_ARGUMENT', 'no endpoint is known: give at least one host:port');
    }
    this.#addresses = options.endpoints;
    this.#timeoutMs = options.timeoutMs ?? defaultCallTimeoutMs;
    this.host = options.host ?? systemHost;
  }

  async call(method: keyof StorApi, request: object, options: CallOptions): Promise<unknown> {
    const isNamed = ((request as { requestId?: string }).requestId ?? '') !== '';
    // a change with an id is made once, however often it is asked for
    const kind = kinds[method] === 'once' && isNamed ? 'repeatable' : kinds[method];
    const timeoutMs = options.timeoutMs ?? this.#timeoutMs;
    const deadlineMs = this.host.monotonicMs() + timeoutMs;
    const endpoints = await this.#open();
    const first = this.#preferred;
    let last: StorError | null = null;
    for (let i = 0; i < endpoints.length; i++) {
      if (this.closed.aborted) throw new StorError('ABORTED', 'the client was closed');
      const at = (first + i) % endpoints.length;
      const endpoint = endpoints[at];
      if (!endpoint) continue;
      const leftMs = Math.ceil(deadlineMs - this.host.monotonicMs());
      if (leftMs <= 0) break;
      const more = i < endpoints.length - 1;
      const attemptMs = kind === 'read' && more ? Math.min(leftMs, readAttemptMs) : leftMs;
      const outcome = await endpoint.call({
        method: method.charAt(0).toUpperCase() + method.slice(1),
        request,
        timeoutMs: attemptMs,
        connectTimeoutMs,
        signal: options.signal,
      });
      if (outcome.type === 'answered') {
        this.#preferred = at;
        return outcome.response;
      }
      const verdict = judge(outcome, kind, endpoint.address, attemptMs);
      if (verdict.error) last = verdict.error;
      const isDown = verdict.goOn || verdict.error.code === 'UNAVAILABLE';
      if (isDown) this.#preferred = (at + 1) % endpoints.length;
      if (!verdict.goOn) throw verdict.error;
    }
    throw last ?? this.#nobody();
  }

  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  get nodes(): number {
    return this.#addresses.length;
  }

  /** See `WatchTransport`. */
  async stream(turn: number, call: RpcStreamCall): Promise<RpcOutcome> {
    const endpoints = await this.#open();
    const endpoint = endpoints[(this.#preferred + turn) % endpoints.length];
    if (this.closed.aborted || !endpoint) return { type: 'not-sent' };
    return endpoint.stream(call);
  }

  pause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        cancel();
        signal.removeEventListener('abort', done);
        resolve();
      };
      const cancel = this.host.after(ms, done);
      signal.addEventListener('abort', done, { once: true });
      if (signal.aborted) done();
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    if (!this.#endpoints) return;
    for (const endpoint of await this.#endpoints) endpoint.close();
  }

  #open(): Promise<ApiChannel[]> {
    this.#endpoints ??= Promise.all(this.#addresses.map((address) => this.host.channel(address)));
    return this.#endpoints;
  }

  #nobody(): StorError {
    const tried = this.#addresses.join(', ');
    return new StorError(
      'UNAVAILABLE',
      `no node answers (tried ${tried}): check that the agents run and that the addresses are right`,
    );
  }
}

type Verdict = { goOn: true; error: StorError | null } | { goOn: false; error: StorError };

/** Whether the next endpoint may be asked, and what to say if nobody answers. */
function judge(
  outcome: Exclude<RpcOutcome, { type: 'answered' }>,
  kind: Kind,
  address: string,
  timeoutMs: number,
): Verdict {
  switch (outcome.type) {
    case 'refused': {
      // said by a node that has lost its quorum: another one may have it
      const mayHelp = hasCode(outcome.error, 'UNAVAILABLE', 'OUTCOME_UNKNOWN');
      return { goOn: mayHelp && kind !== 'once', error: outcome.error };
    }
    case 'not-sent':
      return { goOn: true, error: null };
    case 'aborted':
      return { goOn: false, error: new StorError('ABORTED', 'the call was given up') };
    case 'lost': {
      if (kind === 'read') return { goOn: true, error: null };
      const error = new StorError(
        'OUTCOME_UNKNOWN',
        `the connection to ${address} broke before it answered: the change may or may not have been made, look before trying again`,
        { cause: outcome.cause },
      );
      return { goOn: kind === 'repeatable', error };
    }
    case 'timeout': {
      const seconds = Math.round(timeoutMs / 100) / 10;
      const error = new StorError(
        'TIMEOUT',
        kind === 'read'
          ? `${address} did not answer within ${seconds} s`
          : `${address} did not answer within ${seconds} s: the change may or may not have been made, look before trying again`,
      );
      return { goOn: kind !== 'once', error };
    }
  }
}
