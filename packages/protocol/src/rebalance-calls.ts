import type { StorApi } from './api.ts';
import type { Rebalance } from './resources.ts';
import type { ApiCall } from './snapshot-calls.ts';

type RebalanceMethod = 'startRebalance' | 'orderRebalance' | 'getRebalance';

/** The methods about moves that make disks equally full. */
export function rebalanceCalls(call: ApiCall): Pick<StorApi, RebalanceMethod> {
  const start = call('startRebalance');
  const order = call('orderRebalance');
  const get = call('getRebalance');
  return {
    startRebalance: async (request, options) => decoded(await start(request, options)),
    orderRebalance: async (request, options) => decoded(await order(request, options)),
    getRebalance: async (request, options) => decoded(await get(request, options)),
  };
}

/** On the wire a number that is not known is absent; here it is null. */
function decoded(wire: Rebalance): Rebalance {
  const { startedAtMs, endedAtMs, etaMs } = wire;
  return {
    ...wire,
    startedAtMs: startedAtMs ?? null,
    endedAtMs: endedAtMs ?? null,
    etaMs: etaMs ?? null,
  };
}
