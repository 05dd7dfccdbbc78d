export type { ApiClient, Progress, StorctlIo } from './command-context.ts';
export { openNbdSession } from './nbd-client-session.ts';
export type { NbdOpener, NbdSession } from './nbd-session.ts';
export { runStorctl } from './run-storctl.ts';
