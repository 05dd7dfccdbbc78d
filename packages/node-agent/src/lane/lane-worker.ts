import { parentPort, workerData } from 'node:worker_threads';
import { openLogger, systemClock } from '@stor/runtime';
import { joinLane } from './join-lane.ts';
import type { LaneOptions } from './lane-protocol.ts';
import { Lane } from './lane.ts';

// The entry of a lane's worker thread.
if (!parentPort) throw new Error('lane-worker runs only as a worker thread');
const options = workerData as LaneOptions;
const logger = openLogger({ node: options.nodeName, lane: options.lane }, options.logLevel);
joinLane(parentPort, (control) => new Lane(options, control, systemClock, logger));
