export { csiConformanceSuite } from './conformance/index.ts';
export type { ConformanceTarget } from './conformance/index.ts';
export { CsiClient } from './csi-client.ts';
export type { CsiOutcome } from './csi-client.ts';
export { FakeHostBinds } from './fake-host-binds.ts';
export { MemoryCluster } from './memory-cluster.ts';
