import type { ClusterStatus, Disk, Node, Volume } from './resources.ts';

export interface CallOptions {
  signal?: AbortSignal;
  /** ms; TIMEOUT when it runs out */
  timeoutMs?: number;
}

/**
 * The public API (service `stor.v1.Stor`, proto/stor.proto). Every node answers every call. Names may
 * be ids too. Errors are StorError with the codes named here and UNAVAILABLE (no quorum).
 */
export interface StorApi {
  getClusterStatus(request: Record<string, never>, options?: CallOptions): Promise<ClusterStatus>;
  listNodes(request: Record<string, never>, options?: CallOptions): Promise<{ nodes: Node[] }>;
  /** NOT_FOUND */
  getNode(request: { name: string }, options?: CallOptions): Promise<Node>;
  /** NOT_FOUND, INVALID_ARGUMENT (bad label) */
  labelNode(
    request: { name: string; set: Record<string, string>; remove: string[] },
    options?: CallOptions,
  ): Promise<Node>;
  listDisks(request: Record<string, never>, options?: CallOptions): Promise<{ disks: Disk[] }>;
  /** NOT_FOUND (node), FAILED_PRECONDITION, FOREIGN_DATA, IN_USE, ALREADY_EXISTS */
  addDisk(
    request: { node: string; path: string; tag: string },
    options?: CallOptions,
  ): Promise<Disk>;
  /**
   * Returns when every replica is on its disk. `replicas` 0 means min(3, nodes).
   * ALREADY_EXISTS, INVALID_ARGUMENT (name, size), FAILED_PRECONDITION (more replicas than nodes
   * that are up and have a disk), NO_SPACE; after an error nothing is left behind.
   */
  createVolume(
    request: {
      name: string;
      sizeBytes: number;
      replicas: number;
      labels: Record<string, string>;
      /** kept in the record: the same request sent again finds its own volume; '' or absent: none */
      requestId?: string;
    },
    options?: CallOptions,
  ): Promise<Volume>;
  listVolumes(
    request: Record<string, never>,
    options?: CallOptions,
  ): Promise<{ volumes: Volume[] }>;
  /** NOT_FOUND */
  getVolume(request: { name: string }, options?: CallOptions): Promise<Volume>;
  /** NOT_FOUND; FAILED_PRECONDITION while it is attached (the message names the holder) */
  deleteVolume(request: { name: string }, options?: CallOptions): Promise<Record<string, never>>;
  /** Attaches until detach on `node` ('' = the answering node). NOT_FOUND, ATTACHED_ELSEWHERE. */
  attachVolume(request: { name: string; node: string }, options?: CallOptions): Promise<Volume>;
  /** Drains and gives the attachment back; connections are closed. NOT_FOUND. Works twice. */
  detachVolume(request: { name: string }, options?: CallOptions): Promise<Volume>;
}
