/** More of them take longer: each is made durable on its disk and in the records. */
const manyReplicas = 64;
/** How long many may take (ms). Below the patience of the leader, and of a client with one call. */
const longCreateWaitMs = 55_000;

/** How long the creation of so many replicas may take (ms): `fewMs` unless they are many. */
export function createWaitMs(replicas: number, fewMs: number): number {
  return replicas > manyReplicas ? longCreateWaitMs : fewMs;
}
