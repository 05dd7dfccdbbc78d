export * from './docker-plugin.ts';
export { checkSocketPath } from './plugin-server.ts';
export type { VolumeApi } from './docker-volumes.ts';
