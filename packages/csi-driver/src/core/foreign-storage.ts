/** A pod, as far as its storage goes. */
export interface PodStorage {
  namespace: string;
  name: string;
  /** kinds of what it belongs to */
  owners: readonly string[];
  /** Succeeded and Failed ones run no more */
  phase: string;
  volumes: readonly {
    name: string;
    /** `persistentVolumeClaim`, `nfs`, and so on */
    kind: string;
    /** of a persistentVolumeClaim */
    claimName?: string | undefined;
  }[];
}

/** A PersistentVolume: whose it is, and what it is made of. */
export interface ClaimedVolume {
  /** null: nobody has claimed it */
  claim: { namespace: string; name: string } | null;
  /** driver of CSI, or the kind of another volume */
  source: string;
}

/** What no other host can reach, so that no second pod can use it. */
const hostOnly: readonly string[] = [
  ...['configMap', 'secret', 'projected', 'downwardAPI', 'emptyDir', 'hostPath', 'image', 'local'],
];
/** Pods of these begin on no other node. */
const hostBound: readonly string[] = ['DaemonSet', 'Node'];

/**
 * Storage of a node's pods that is neither this driver's nor the host's own: nobody can say that the lost node's
 * pod is kept from it when the next one begins. Many kinds are not attached, so Kubernetes lists no attachment of
 * them (NFS). What is not known counts as such.
 */
export function foreignStorage(
  pods: readonly PodStorage[],
  volumes: readonly ClaimedVolume[],
  driverName: string,
): string[] {
  const keyOf = (namespace: string, name: string): string => `${namespace}/${name}`;
  const sources = new Map<string, string>();
  for (const { claim, source } of volumes) {
    if (claim) sources.set(keyOf(claim.namespace, claim.name), source);
  }
  const found = new Set<string>();
  for (const pod of pods) {
    if (pod.phase === 'Succeeded' || pod.phase === 'Failed') continue;
    if (pod.owners.some((kind) => hostBound.includes(kind))) continue;
    for (const { name, kind, claimName } of pod.volumes) {
      const isClaim = kind === 'persistentVolumeClaim' || kind === 'ephemeral';
      // Kubernetes names the claim of a volume that lives as long as its pod so
      const claim = keyOf(pod.namespace, claimName ?? `${pod.name}-${name}`);
      const source = isClaim ? (sources.get(claim) ?? `the claim ${claim}`) : kind;
      if (source !== driverName && !hostOnly.includes(source)) found.add(source);
    }
  }
  return [...found].sort();
}
