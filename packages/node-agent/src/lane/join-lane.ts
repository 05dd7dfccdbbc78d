import type { MainMethods } from './lane-protocol.ts';
import type { Lane } from './lane.ts';
import { LaneRpc, type Port } from './rpc.ts';

/** Joins a lane to the agent's main thread, both ways, over a port. */
export function joinLane(port: Port, makeLane: (control: MainMethods) => Lane): Lane {
  // Calls may arrive once the handlers are set, and the lane needs the caller to exist first.
  const handlers: { lane?: Lane } = {};
  const rpc = new LaneRpc<MainMethods>(
    port,
    new Proxy(
      {},
      {
        get: (_target, method) => {
          const lane = handlers.lane as unknown as Record<string, (...args: unknown[]) => unknown>;
          return lane[String(method)]?.bind(lane);
        },
      },
    ),
  );
  const lane = makeLane(rpc.remote);
  handlers.lane = lane;
  return lane;
}
