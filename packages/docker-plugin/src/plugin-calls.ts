import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import { parseBody, readBody } from './core/call-bodies.ts';
import { callMs, longCallMs } from './core/limits.ts';
import type { DockerVolumes } from './docker-volumes.ts';
import type { OpenCall } from './open-call.ts';

export interface PluginAnswer {
  /** HTTP status: 200 also for a call that failed, as its text is what matters */
  status: number;
  body: object;
  /** there is no answer: when the connection breaks, dockerd asks the agent that follows */
  isCut: boolean;
  /** To be told once: whether the client has it, or went away before. */
  arrived(hasIt: boolean): void;
}

interface PluginCall {
  limitMs: number;
  /** Answers, unless it rejects. */
  run: (body: unknown, call: OpenCall) => Promise<unknown>;
}

const nobodyAsks = (): void => undefined;

/** The calls of the plug-in API, from the text of a request to what is answered. */
export class PluginCalls {
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #calls: ReadonlyMap<string, PluginCall>;
  /** those that are under way, and how to end them */
  readonly #open = new Map<Promise<void>, AbortController>();
  #ended = false;

  constructor(options: { volumes: DockerVolumes; clock: Clock; logger: Logger }) {
    this.#clock = options.clock;
    this.#logger = options.logger;
    this.#calls = new Map(Object.entries(callsOf(options.volumes)));
  }

  has(path: string): boolean {
    return this.#calls.has(path);
  }

  /** Never rejects. */
  async answer(path: string, text: string): Promise<PluginAnswer> {
    const call = this.#calls.get(path);
    if (!call) {
      return refusal(404, `there is no call ${path.slice(0, 128)}: this is a plug-in for volumes`);
    }
    let body: unknown;
    try {
      body = parseBody(text);
    } catch (error) {
      return refusal(400, StorError.from(error).message);
    }
    if (this.#ended) return this.#failed(path, body, stopping());
    return this.#begin(path, call, body);
  }

  /** Ends what can be begun anew by the next agent, and waits for the rest. Works twice. */
  async end(): Promise<void> {
    this.#ended = true;
    for (const controller of this.#open.values()) controller.abort(stopping());
    await Promise.all(this.#open.keys());
  }

  #begin(path: string, { limitMs, run }: PluginCall, body: unknown): Promise<PluginAnswer> {
    const controller = new AbortController();
    return new Promise((resolve) => {
      let isAnswered = false;
      let waitsFor = '';
      const send = (answer: PluginAnswer): void => {
        isAnswered = true;
        cancel();
        resolve(answer);
      };
      const cancel = this.#clock.after(limitMs, () => {
        const what = `${path.slice(1)} of volume ${nameIn(body)}`;
        const error = new StorError(
          'TIMEOUT',
          `${what} did not end within ${limitMs / 1_000} s: it waits for ${waitsFor}`,
        );
        controller.abort(error);
        send(this.#failed(path, body, error));
      });
      const call: OpenCall = {
        signal: controller.signal,
        waitsFor: (what) => {
          waitsFor = what;
        },
        answer: (given) =>
          new Promise((arrived) => {
            // what comes too late, nobody hears
            if (isAnswered) arrived(false);
            else send({ status: 200, body: given, isCut: false, arrived });
          }),
      };
      const failed = (error: unknown): void => {
        if (!isAnswered) send(this.#failed(path, body, StorError.from(error)));
      };
      const done: Promise<void> = run(body, call)
        .then(() => undefined, failed)
        .finally(() => this.#open.delete(done));
      this.#open.set(done, controller);
    });
  }

  #failed(path: string, body: unknown, error: StorError): PluginAnswer {
    const fields = { call: path, volume: nameIn(body), code: error.code, error: error.message };
    if (error.code === 'INTERNAL') this.#logger.error(fields, 'a call of Docker failed');
    else this.#logger.info(fields, 'a call of Docker was refused');
    return {
      status: 200,
      body: { Err: error.message },
      isCut: this.#ended && error.code === 'ABORTED',
      arrived: nobodyAsks,
    };
  }
}

/** Of a request that is none of the calls. */
export function refusal(status: number, Err: string): PluginAnswer {
  return { status, body: { Err }, isCut: false, arrived: nobodyAsks };
}

function stopping(): StorError {
  return new StorError('ABORTED', 'the agent of this node stops: try again');
}

function callsOf(volumes: DockerVolumes): Record<string, PluginCall> {
  const short = (run: PluginCall['run']): PluginCall => ({ limitMs: callMs, run });
  const long = (run: PluginCall['run']): PluginCall => ({ limitMs: longCallMs, run });
  const done = { Err: '' };
  return {
    '/Plugin.Activate': short((_, call) => call.answer({ Implements: ['VolumeDriver'] })),
    '/VolumeDriver.Capabilities': short((_, call) =>
      // a name is the same volume on every host
      call.answer({ Capabilities: { Scope: 'global' } }),
    ),
    '/VolumeDriver.Create': long(async (body, call) => {
      const { Name, Opts } = readBody('create', body);
      await volumes.create(Name, Opts ?? {}, call);
      await call.answer(done);
    }),
    '/VolumeDriver.Remove': short(async (body, call) => {
      await volumes.remove(readBody('named', body).Name, call);
      await call.answer(done);
    }),
    '/VolumeDriver.Mount': long(async (body, call) => {
      const { Name, ID } = readBody('mount', body);
      await volumes.mount(Name, ID, call);
    }),
    '/VolumeDriver.Unmount': short(async (body, call) => {
      const { Name, ID } = readBody('mount', body);
      await volumes.unmount(Name, ID, call);
    }),
    '/VolumeDriver.Path': short(async (body, call) => {
      const Mountpoint = volumes.path(readBody('named', body).Name);
      await call.answer({ Mountpoint, ...done });
    }),
    '/VolumeDriver.Get': short(async (body, call) => {
      const Volume = await volumes.get(readBody('named', body).Name, call);
      await call.answer({ Volume, ...done });
    }),
    '/VolumeDriver.List': short(async (_, call) => {
      const Volumes = await volumes.list(call);
      await call.answer({ Volumes, ...done });
    }),
  };
}

/** For logs and errors: whatever was sent as a name. */
function nameIn(body: unknown): string {
  const { Name } = (typeof body === 'object' && body !== null ? body : {}) as { Name?: unknown };
  return typeof Name === 'string' ? Name.slice(0, 128) : '';
}
