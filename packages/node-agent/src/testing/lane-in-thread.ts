import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { joinLane } from '../lane/join-lane.ts';
import type { LaneHost } from '../lane/lane-host.ts';
import type { LaneMethods, LaneOptions, MainMethods } from '../lane/lane-protocol.ts';
import { Lane, type LaneMachine } from '../lane/lane.ts';
import { LaneRpc, type Port } from '../lane/rpc.ts';

/** One end of a pair of ports in one thread; messages are copied and arrive in a later event. */
class ThreadPort implements Port {
  readonly #clock: Clock;
  #other: ThreadPort | null = null;
  #listener: (message: unknown) => void = () => {};
  #isClosed = false;

  private constructor(clock: Clock) {
    this.#clock = clock;
  }

  static pair(clock: Clock): [ThreadPort, ThreadPort] {
    const near = new ThreadPort(clock);
    const far = new ThreadPort(clock);
    near.#other = far;
    far.#other = near;
    return [near, far];
  }

  postMessage(message: unknown): void {
    if (this.#isClosed) return;
    // copied now, as a worker's port does: the sender may change its objects afterwards
    const copy: unknown = structuredClone(message);
    const other = this.#other;
    this.#clock.after(0, () => {
      if (!this.#isClosed && other) other.#listener(copy);
    });
  }

  on(_event: 'message', listener: (message: unknown) => void): void {
    this.#listener = listener;
  }

  /** Nothing passes any more, in neither direction; what is on its way is lost. */
  close(): void {
    this.#isClosed = true;
    if (this.#other) this.#other.#isClosed = true;
  }
}

/** A lane in the caller's thread. */
export interface ThreadLaneHost extends LaneHost {
  readonly lane: Lane;
  /**
   * The lane ends here and now, as when its thread has died: nothing passes to or from it any more,
   * and the agent hears of it, upon which a real process ends. What the lane has under way comes to
   * nothing only when its clock, files and network are dead too.
   */
  kill(): void;
}

/**
 * Starts a lane without a thread, for `Platform.startLane`: calls between it and the agent are
 * copied and asynchronous as through a worker's port, in events of the given clock.
 */
export function startLaneInThread(
  options: LaneOptions,
  control: MainMethods,
  parts: { clock: Clock; logger: Logger; machine: LaneMachine },
): ThreadLaneHost {
  const { clock, logger, machine } = parts;
  const [near, far] = ThreadPort.pair(clock);
  const rpc = new LaneRpc<LaneMethods>(near, control);
  const own = structuredClone(options);
  const lane = joinLane(far, (remote) => new Lane(own, remote, clock, logger, machine));
  const listeners: ((error: StorError) => void)[] = [];
  let closing: Promise<void> | null = null;
  let isOver = false;
  const end = (reason: string): void => {
    if (isOver) return;
    isOver = true;
    near.close();
    const error = new StorError('INTERNAL', `lane ${options.lane} ended: ${reason}`);
    rpc.close(error);
    if (!closing) for (const listener of listeners) listener(error);
  };
  const close = async (): Promise<void> => {
    try {
      await rpc.remote.close();
    } finally {
      end('closed');
    }
  };
  return {
    lane,
    methods: rpc.remote,
    onDeath: (listener) => {
      listeners.push(listener);
    },
    close: () => (closing ??= close()),
    kill: () => {
      end('killed');
    },
  };
}
