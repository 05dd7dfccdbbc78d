import { setMaxListeners } from 'node:events';

/**
 * A controller whose signal every call under way listens to. Node warns of a leak at the eleventh
 * listener; here their number is bounded by that of the calls.
 */
export function longLivedController(): AbortController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}
