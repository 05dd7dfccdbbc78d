import type {
  AffinityRule,
  ClusterSettings,
  DiskId,
  NodeId,
  PlacementRules,
  VolumeId,
} from '@stor/protocol';
import type { ClusterState, Versioned } from '../../resources/cluster-state.ts';
import type { DiskRecord, NodeRecord, StoredVolume } from '../../resources/records.ts';
import { ruledVolumes, volumesLabelled } from '../../resources/state-index.ts';
import { isRuled } from '../../resources/volume-table.ts';
import { GuaranteeBook, guaranteeOf, isBounded } from '../qos/guarantees.ts';
import type { Guarantee } from '../qos/guarantees.ts';
import { placedSegments } from '../volume/segment-size.ts';
import { settingsOf } from './cluster-limits.ts';
import { diskUses, unused } from './disk-use.ts';
import type { DiskUse } from './disk-use.ts';
import type { Site } from './spread.ts';

/** A required anti-affinity rule, and the nodes of the volumes that have it. */
export interface Repeller {
  rule: AffinityRule;
  holders: Map<NodeId, Set<VolumeId>>;
}

type Labels = Readonly<Record<string, string>>;

export function hasLabels(labels: Labels, wanted: Labels): boolean {
  return Object.entries(wanted).every(([key, value]) => labels[key] === value);
}

/**
 * What placing asks of the state, counted once for a whole plan: with thousands of volumes a look at
 * all of them for each one that is placed would take minutes. What is placed meanwhile is noted.
 */
export class PlacementBoard {
  readonly state: ClusterState;
  readonly #instead: StoredVolume | null;
  #settings: ClusterSettings | null = null;
  #uses: Map<DiskId, DiskUse> | null = null;
  #disks: Map<NodeId, DiskRecord[]> | null = null;
  #nodes: NodeRecord[] | null = null;
  #guarantees: GuaranteeBook | null = null;
  #repellers: Repeller[] | null = null;
  readonly #holders = new Map<string, Map<NodeId, Set<VolumeId>>>();
  readonly #knownLabels = new Map<string, boolean>();
  readonly #domains = new Map<string, Set<string>>();
  readonly #sites = new Map<string, Map<NodeId, Site>>();
  readonly #placed = new Map<VolumeId, NodeId[]>();

  /** `instead`: a volume that is about to be written, in place of what the state says of it, if anything. */
  constructor(state: ClusterState, instead: StoredVolume | null = null) {
    this.state = state;
    this.#instead = instead;
  }

  /** A caller may have one already, or only the state. */
  static of(state: ClusterState | PlacementBoard): PlacementBoard {
    return state instanceof PlacementBoard ? state : new PlacementBoard(state);
  }

  get settings(): ClusterSettings {
    this.#settings ??= settingsOf(this.state);
    return this.#settings;
  }

  useOf(diskId: DiskId): DiskUse {
    this.#uses ??= diskUses(this.state, this.#instead);
    return this.#uses.get(diskId) ?? unused;
  }

  disksOf(nodeId: NodeId): readonly DiskRecord[] {
    if (!this.#disks) {
      this.#disks = new Map();
      for (const { value } of this.state.disks.values()) {
        const known = this.#disks.get(value.nodeId);
        if (known) known.push(value);
        else this.#disks.set(value.nodeId, [value]);
      }
    }
    return this.#disks.get(nodeId) ?? [];
  }

  /** By name. */
  get nodes(): readonly NodeRecord[] {
    this.#nodes ??= [...this.state.nodes.values()]
      .map(({ value }) => value)
      .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
    return this.#nodes;
  }

  /** Some node has that label. */
  knowsLabel(key: string): boolean {
    const known =
      this.#knownLabels.get(key) ?? this.nodes.some(({ labels }) => labels[key] !== undefined);
    this.#knownLabels.set(key, known);
    return known;
  }

  /** Of volumes that the state was asked for, those that hold here. */
  #known(found: Versioned<StoredVolume>[], isOne: (volume: StoredVolume) => boolean) {
    const instead = this.#instead;
    const values = found.map(({ value }) => value);
    if (!instead) return values;
    const others = values.filter(({ metadata }) => metadata.id !== instead.metadata.id);
    return isOne(instead) ? [...others, instead] : others;
  }

  #labelled(labels: Labels): StoredVolume[] {
    const isOne = ({ metadata }: StoredVolume): boolean => hasLabels(metadata.labels, labels);
    return this.#known(volumesLabelled(this.state.volumes, labels), isOne);
  }

  /** Nodes with a replica that stays of a volume with these labels, and of which volumes. */
  holders(labels: Labels): ReadonlyMap<NodeId, ReadonlySet<VolumeId>> {
    const key = JSON.stringify(Object.entries(labels).sort());
    const known = this.#holders.get(key);
    if (known) return known;
    const holders = new Map<NodeId, Set<VolumeId>>();
    this.#holders.set(key, holders);
    for (const value of this.#labelled(labels)) {
      for (const nodeId of this.nodesOf(value)) addTo(holders, nodeId, value.metadata.id);
    }
    return holders;
  }

  /** Whether any volume has these labels; `except` does not count. */
  hasVolume(labels: Labels, except: VolumeId): boolean {
    return this.#labelled(labels).some(({ metadata }) => metadata.id !== except);
  }

  /** Required rules that keep others away, and where the volumes that have them lie; usually few. */
  get repellers(): readonly Repeller[] {
    this.#repellers ??= this.#findRepellers();
    return this.#repellers;
  }

  #findRepellers(): Repeller[] {
    const repellers = new Map<string, Repeller>();
    for (const value of this.#known(ruledVolumes(this.state.volumes), isRuled)) {
      for (const rule of value.spec.placement?.antiAffinity ?? []) {
        if (!rule.required) continue;
        const key = JSON.stringify([rule.domain ?? '', Object.entries(rule.labels).sort()]);
        const repeller: Repeller = repellers.get(key) ?? { rule, holders: new Map() };
        repellers.set(key, repeller);
        for (const nodeId of this.nodesOf(value)) {
          addTo(repeller.holders, nodeId, value.metadata.id);
        }
      }
    }
    return [...repellers.values()];
  }

  /** Where a volume has replicas that stay. */
  nodesOf(volume: StoredVolume): NodeId[] {
    const nodes = new Set(this.#placed.get(volume.metadata.id) ?? []);
    for (const { replicas } of placedSegments(volume)) {
      for (const replica of replicas) {
        if (replica.leaving !== true && replica.state !== 'failed') nodes.add(replica.nodeId);
      }
    }
    return [...nodes];
  }

  /** Domains that are asked for again and again, by what they depend on besides the state. */
  remember(about: string, count: () => Set<string>): Set<string> {
    const known = this.#domains.get(about) ?? count();
    this.#domains.set(about, known);
    return known;
  }

  /** What a node offers under rules that are alike; see `siteOf`. */
  rememberSite(about: string, nodeId: NodeId, make: () => Site): Site {
    const sites = this.#sites.get(about) ?? new Map<NodeId, Site>();
    this.#sites.set(about, sites);
    const site = sites.get(nodeId) ?? make();
    sites.set(nodeId, site);
    return site;
  }

  get guarantees(): GuaranteeBook {
    this.#guarantees ??= new GuaranteeBook(this.state, this.#instead);
    return this.#guarantees;
  }

  #guaranteeFor({ wishes = {} }: PlacementSubject): Guarantee {
    return guaranteeOf({ spec: wishes as StoredVolume['spec'] }, this.state);
  }

  /** Why the disk cannot keep what the volume is to be guaranteed; null when it can. */
  guaranteeLack(disk: DiskRecord, subject: PlacementSubject | undefined): string | null {
    if (!subject || !isBounded(disk)) return null;
    const wanted = this.#guaranteeFor(subject);
    return this.guarantees.lack(disk, subject.volumeId, wanted);
  }

  /** Another replica is about to be put there: who is placed next finds that. */
  note(
    place: { nodeId: NodeId; diskId: DiskId },
    need: { sizeBytes: number; fillBytes: number; subject?: PlacementSubject },
  ): void {
    const use = this.useOf(place.diskId);
    this.#uses?.set(place.diskId, {
      replicas: use.replicas + 1,
      provisionedBytes: use.provisionedBytes + need.sizeBytes,
      comingBytes: use.comingBytes + need.fillBytes,
    });
    const { subject } = need;
    if (!subject) return;
    this.#guarantees?.note(place.diskId, subject.volumeId, this.#guaranteeFor(subject));
    if (subject.rules.antiAffinity) this.#repellers = null;
    this.#placed.set(subject.volumeId, [
      ...(this.#placed.get(subject.volumeId) ?? []),
      place.nodeId,
    ]);
    for (const [key, holders] of this.#holders) {
      const labels = Object.fromEntries(JSON.parse(key) as [string, string][]);
      if (hasLabels(subject.labels, labels)) addTo(holders, place.nodeId, subject.volumeId);
    }
  }
}

function addTo(holders: Map<NodeId, Set<VolumeId>>, nodeId: NodeId, volumeId: VolumeId): void {
  const known = holders.get(nodeId);
  if (known) known.add(volumeId);
  else holders.set(nodeId, new Set([volumeId]));
}

/** The volume whose replicas are placed, as far as rules go. */
export interface PlacementSubject {
  /** '' for one that is only thought of */
  volumeId: VolumeId;
  labels: Labels;
  rules: PlacementRules;
  /** the node that uses it, or asks for it: a replica there is read without the network */
  local: NodeId | null;
  /** what it asks to be guaranteed; absent: nothing */
  wishes?: Pick<StoredVolume['spec'], 'qos' | 'policyName'>;
}

export function subjectOf(volume: StoredVolume): PlacementSubject {
  const { attachment } = volume.status;
  const user = attachment && attachment.mode !== 'repair' ? attachment.nodeId : null;
  return {
    volumeId: volume.metadata.id,
    labels: volume.metadata.labels,
    rules: volume.spec.placement ?? {},
    local: volume.spec.attachTo ?? user,
    wishes: volume.spec,
  };
}
