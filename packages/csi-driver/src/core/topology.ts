import type { Node } from '@stor/protocol';
import type { Texts, Topology, TopologyRequirement } from '../messages.ts';
import { csiError } from './csi-error.ts';
import { invalid } from './check-fields.ts';

const segmentValue = /^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$/;
/** Labels of nodes that are failure domains, besides the node itself. */
const domainLabels = ['zone', 'rack'] as const;

/** Keys of topology: the driver's name is their prefix, as the specification wants it to be one. */
export class TopologyKeys {
  readonly cluster: string;
  readonly node: string;
  readonly #domains: readonly (readonly [string, string])[];

  constructor(driverName: string) {
    const prefix = driverName.toLowerCase();
    this.cluster = `${prefix}/cluster`;
    this.node = `${prefix}/node`;
    this.#domains = domainLabels.map((label) => [label, `${prefix}/${label}`] as const);
  }

  /** Where a node is. What cannot be the value of a segment is left out. */
  ofNode({ metadata }: Pick<Node, 'metadata'>, clusterId: string): Topology {
    const segments: Texts = { [this.cluster]: clusterId };
    if (segmentValue.test(metadata.name)) segments[this.node] = metadata.name;
    for (const [label, key] of this.#domains) {
      const value = metadata.labels[label] ?? '';
      if (segmentValue.test(value)) segments[key] = value;
    }
    return { segments };
  }

  /**
   * Where a volume can be used: at every node of the cluster, wherever its replicas lie. Naming fewer would
   * keep workloads from the nodes that they should move to when one dies.
   */
  ofVolume(clusterId: string): Topology[] {
    return [{ segments: { [this.cluster]: clusterId } }];
  }

  /** Nodes of a topology. */
  matching<T extends Pick<Node, 'metadata'>>(
    nodes: readonly T[],
    { segments }: Topology,
    clusterId: string,
  ): T[] {
    const wanted = Object.entries(segments);
    return nodes.filter((node) => {
      const { segments: has } = this.ofNode(node, clusterId);
      return wanted.every(([key, value]) => has[key] === value);
    });
  }

  /**
   * The node that is to have a replica: the first one that is preferred, else '' (any).
   * RESOURCE_EXHAUSTED when no node of the cluster is in any of the topologies that are required.
   */
  chosenNode(
    requirement: TopologyRequirement | null,
    nodes: readonly Node[],
    clusterId: string,
  ): string {
    if (!requirement) return '';
    const { requisite, preferred } = requirement;
    if (requisite.length === 0 && preferred.length === 0) {
      throw invalid('accessibility_requirements name neither requisite nor preferred topologies');
    }
    const required = requisite.flatMap((each) => this.matching(nodes, each, clusterId));
    if (requisite.length > 0 && required.length === 0) {
      throw csiError(
        'RESOURCE_EXHAUSTED',
        'no node of the cluster is in a required topology: check the labels of nodes with "storctl node ls"',
      );
    }
    for (const each of preferred) {
      // one that names its node; a whole zone says nothing about a node
      if (each.segments[this.node] === undefined) continue;
      const found = this.matching(nodes, each, clusterId).find(isUsable);
      if (found) return found.metadata.id;
    }
    return '';
  }
}

/** It has disks that take replicas. */
function isUsable({ spec, status }: Node): boolean {
  return status.state === 'up' && !status.computeOnly && !spec.cordoned && !spec.drain;
}
