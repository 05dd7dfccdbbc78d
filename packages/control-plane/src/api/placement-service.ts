import {
  checkPlacement,
  checkQos,
  knownQos,
  maxReplicas,
  maxVolumeBytes,
  StorError,
} from '@stor/protocol';
import type {
  PlacementExplanation,
  PlacementRules,
  PlacementViolation,
  QosSpec,
} from '@stor/protocol';
import type { ClusterStore } from '../cluster-store.ts';
import { sitesOf } from '../core/controllers/replica-sites.ts';
import { explainPlaces } from '../core/placement/explain-placement.ts';
import { PlacementBoard } from '../core/placement/placement-board.ts';
import { preferredDomains } from '../core/placement/placement-rules.ts';
import { findPolicy } from '../core/qos/policy-rules.ts';
import { needOf } from '../core/placement/place-replicas.ts';
import { describeViolations } from '../core/placement/placement-violations.ts';
import { anySite } from '../core/placement/rank.ts';
import type { ClusterState } from '../resources/cluster-state.ts';
import { readState } from '../resources/find.ts';
import type { StoredVolume } from '../resources/records.ts';
import { findNode } from './find-node.ts';
import { readSoon } from './read-soon.ts';

export interface ExplainPlacementRequest {
  volume: string;
  segment: number;
  replicas: number;
  sizeBytes: number;
  labels: Record<string, string>;
  diskTag: string;
  placement?: PlacementRules | null;
  onNode: string;
  qos?: QosSpec | null;
  policyName?: string;
}

/** Answers where replicas could lie, and which lie where they should not. */
export class PlacementService {
  readonly #store: ClusterStore;

  constructor(options: { store: ClusterStore }) {
    this.#store = options.store;
  }

  /** See StorApi.explainPlacement. */
  async explain(request: ExplainPlacementRequest): Promise<PlacementExplanation> {
    const { replicas } = request;
    if (!Number.isInteger(replicas) || replicas < 0 || replicas > maxReplicas) {
      const range = `ask for 1 to ${maxReplicas}`;
      throw new StorError('INVALID_ARGUMENT', `${replicas} replicas are not possible: ${range}`);
    }
    const state = await readSoon((options) => readState(this.#store, options));
    return request.volume === '' ? explainNew(state, request) : explainKnown(state, request);
  }

  /** See StorApi.listPlacementViolations. */
  async violations(volume: string): Promise<PlacementViolation[]> {
    const state = await readSoon((options) => readState(this.#store, options));
    const board = new PlacementBoard(state);
    const volumes =
      volume === ''
        ? [...state.volumes.values()].map(({ value }) => value)
        : [findIn(state, volume)];
    volumes.sort((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
    return volumes.flatMap((each) => describeViolations(board, each));
  }
}

function explainNew(state: ClusterState, request: ExplainPlacementRequest): PlacementExplanation {
  const { sizeBytes, labels, diskTag: tag, onNode } = request;
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes > maxVolumeBytes) {
    throw new StorError('INVALID_ARGUMENT', `size ${sizeBytes} is not valid: give --size`);
  }
  const board = new PlacementBoard(state);
  const rules = checkPlacement(request.placement ?? {}) ?? {};
  const local = onNode === '' ? null : findNode(state, onNode).value.id;
  const qos = knownQos(request.qos);
  checkQos(qos);
  const policy = request.policyName ?? '';
  const policyName =
    policy === '' ? {} : { policyName: findPolicy(state.policies, policy).value.name };
  const subject = { volumeId: '', labels, rules, local, wishes: { qos, ...policyName } };
  const need = { kind: 'new' as const, sizeBytes, fillBytes: 0, tag, subject };
  const facts = explainPlaces(board, need, anySite, request.replicas || 1);
  const shown = { ...rules, preferred: [...preferredDomains(board, rules)] };
  return { volume: '', volumeId: '', segment: 0, rules: shown, violations: [], ...facts };
}

function explainKnown(state: ClusterState, request: ExplainPlacementRequest): PlacementExplanation {
  const volume = findIn(state, request.volume);
  const { metadata, spec, status } = volume;
  const segment = status.segments.find(({ index }) => index === request.segment);
  if (!segment) {
    throw new StorError(
      'NOT_FOUND',
      `volume ${metadata.name} has no segment ${request.segment}: it has ${status.segments.length}, from 0`,
    );
  }
  const board = new PlacementBoard(state);
  const sites = sitesOf(segment, state);
  const there = new Set(sites.fixed).size;
  const count = Math.max(0, (request.replicas || spec.replicas) - there);
  const need = needOf(
    state,
    volume,
    segment,
    count > 0 && request.replicas > spec.replicas ? 'new' : 'repair',
  );
  const facts = explainPlaces(board, need, sites, count);
  const rules = spec.placement ?? {};
  return {
    volume: metadata.name,
    volumeId: metadata.id,
    segment: segment.index,
    rules: { ...rules, preferred: [...preferredDomains(board, rules)] },
    violations: describeViolations(board, volume),
    ...facts,
  };
}

function findIn(state: ClusterState, nameOrId: string): StoredVolume {
  const id = state.names.get(nameOrId)?.value ?? nameOrId;
  const volume = state.volumes.get(id)?.value;
  if (volume) return volume;
  const name = JSON.stringify(nameOrId.slice(0, 128));
  throw new StorError('NOT_FOUND', `there is no volume ${name}: see "storctl volume ls"`);
}
