/** What an operator wants of a node; every part may be absent. Times are by the wall clock. */
export interface NodeIntent {
  /** it takes no new replica and no new attachment; what it has stays */
  cordoned?: { sinceMs: number; reason: string };
  /** its attachments move away (cordons too) */
  drain?: { sinceMs: number };
  /** its replicas move away (cordons too) */
  evacuate?: { sinceMs: number };
  /** its replicas are not replaced until then, and it takes no new ones */
  maintenance?: { sinceMs: number; untilMs: number };
  /** replicas and attachments move away; then the node leaves the cluster */
  decommission?: { sinceMs: number };
}

/** As an API answer has it: a part that is not wanted is absent, or null on the wire. */
export type NodeSpec = { [Part in keyof NodeIntent]?: NodeIntent[Part] | null };
