import { parentPort, workerData } from 'node:worker_threads';
import { openLogger, systemClock } from '@stor/runtime';
import type { LaneOptions, MainMethods } from './lane-protocol.ts';
import { Lane } from './lane.ts';
import { LaneRpc } from './rpc.ts';

// The entry of a lane's worker thread: joins the lane to the main thread, both ways.
if (!parentPort) throw new Error('lane-worker runs only as a worker thread');
const port = parentPort;
const options = workerData as LaneOptions;
const logger = openLogger({ node: options.nodeName, lane: options.lane }, options.logLevel);

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
handlers.lane = new Lane(options, rpc.remote, systemClock, logger);
