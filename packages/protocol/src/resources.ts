// The resources of the cluster, as the API shows and the records keep them.
export type * from './resources/attachment-grant.ts';
export type * from './resources/disk.ts';
export type * from './resources/event.ts';
export type * from './resources/member.ts';
export type * from './resources/metadata.ts';
export type * from './resources/node.ts';
export type * from './resources/node-intent.ts';
export type * from './resources/node-plan.ts';
export type * from './resources/placement.ts';
export type * from './resources/policy.ts';
export type * from './resources/rebalance.ts';
export type * from './resources/scrub.ts';
export type * from './resources/segment-status.ts';
export type * from './resources/snapshot.ts';
export type * from './resources/tenant.ts';
export type * from './resources/volume.ts';
export type * from './resources/what-if.ts';
