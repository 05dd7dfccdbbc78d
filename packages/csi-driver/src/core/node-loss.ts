/** Key that makes Kubernetes delete the pods of a lost node, and let go of its volumes, at once. */
export const outOfServiceKey = 'node.kubernetes.io/out-of-service';
/** Value by which we know a taint of ours; one with another value is an operator's. */
export const outOfServiceValue = 'lost-by-stor';

/** A node of Kubernetes that runs an agent, as both sides see it now. */
export interface WatchedNode {
  /** of Kubernetes */
  name: string;
  /** its agent holds its node lease */
  isUp: boolean;
  /** kubelet says that it is well */
  isReady: boolean;
  /** value of the taint; null: it has none */
  outOfService: string | null;
  /** storage there that is not this driver's, nor the host's own: drivers, or kinds such as `nfs` */
  otherDrivers: readonly string[];
}

export interface NodeLossPlan {
  /** to be taken out of service */
  lost: string[];
  /** to be given back: ours, and well again */
  back: string[];
  /** lost for both sides, and yet left alone: why, for people */
  refused: { name: string; reason: string }[];
}

/** Of so many nodes at least one may be out of service, else this share. */
const maxLostShare = 1 / 3;

/**
 * Which nodes are lost. Both witnesses must say so, for as long as it takes: an agent alone may have died while
 * its workloads and their devices live on; kubelet alone may be silent while they do. When many are silent at
 * once it is more likely the network, or whoever looks, and nothing is done. `downForMs`: by the clock of whoever
 * looks, how long it has seen each node down without a break.
 */
export function planNodeLoss(
  nodes: readonly WatchedNode[],
  downForMs: ReadonlyMap<string, number>,
  { waitMs }: { waitMs: number },
): NodeLossPlan {
  const back = nodes.filter(
    (node) => node.outOfService === outOfServiceValue && node.isUp && node.isReady,
  );
  const silent = nodes.filter((node) => !node.isUp && !node.isReady);
  const due = silent.filter(
    ({ name, outOfService }) => outOfService === null && (downForMs.get(name) ?? 0) >= waitMs,
  );
  const most = Math.max(1, Math.floor(nodes.length * maxLostShare));
  const plan: NodeLossPlan = { lost: [], back: back.map(({ name }) => name), refused: [] };
  for (const { name, otherDrivers } of due) {
    if (silent.length > most) {
      const reason = `${silent.length} of ${nodes.length} nodes are silent at once, and at most ${most} are believed to be lost`;
      plan.refused.push({ name, reason });
    } else if (otherDrivers.length > 0) {
      const reason = `it has volumes of ${otherDrivers.join(', ')}, which may not be fenced`;
      plan.refused.push({ name, reason });
    } else {
      plan.lost.push(name);
    }
  }
  return plan;
}
