export { Agent } from './agent.ts';
export type { AgentConfig } from './config.ts';
export type { LaneHost } from './lane/lane-host.ts';
export type { LaneOptions, MainMethods } from './lane/lane-protocol.ts';
export type { LaneMachine } from './lane/lane.ts';
export { systemPlatform, type Platform } from './platform.ts';
