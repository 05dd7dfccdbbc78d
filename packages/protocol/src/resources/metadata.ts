/** What every resource carries. `resourceVersion` is the store revision of its last change. */
export interface Metadata {
  id: string;
  name: string;
  labels: Record<string, string>;
  createdAtMs: number;
  resourceVersion: number;
}
