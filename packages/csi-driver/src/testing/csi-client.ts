import { setTimeout as delay } from 'node:timers/promises';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import type { ServiceError } from '@grpc/grpc-js';
import { status } from '../core/csi-error.ts';
import type { CsiCode } from '../core/csi-error.ts';
import { loadCsiServices } from '../csi-services.ts';
import type { CsiServiceName, CsiServices } from '../csi-services.ts';

/** Longer than any call of a test takes (ms). */
const callTimeoutMs = 60_000;
/** An orchestrator asks again when the driver cannot reach its cluster for now; so often, after so long (ms). */
const mostAsked = 10;
const askAgainMs = 1_000;

/** What came of a call: its answer, or the code of the specification and the message. */
export type CsiOutcome =
  { code: 'OK'; answer: Record<string, unknown> } | { code: CsiCode; message: string };

/** A client of a CSI socket, as an orchestrator is one: it knows csi.proto and nothing of us. */
export class CsiClient {
  readonly #client: Client;
  readonly #services: CsiServices;

  private constructor(client: Client, services: CsiServices) {
    this.#client = client;
    this.#services = services;
  }

  static async open(path: string): Promise<CsiClient> {
    const client = new Client(`unix:${path}`, credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
    });
    return new CsiClient(client, await loadCsiServices());
  }

  /** `call` in the form `Controller.CreateVolume`; fields that are left out are absent. */
  outcome(call: string, request: object = {}): Promise<CsiOutcome> {
    const { path, requestSerialize, responseDeserialize } = this.#method(call);
    return new Promise((resolve) => {
      this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        new Metadata(),
        { deadline: Date.now() + callTimeoutMs },
        (error: ServiceError | null, answer?: unknown) => {
          if (error) resolve({ code: codeOf(error.code), message: error.details });
          else resolve({ code: 'OK', answer: answer as Record<string, unknown> });
        },
      );
    });
  }

  /** The answer, asked for again while it is UNAVAILABLE; rejects with code and message. */
  async call<T = Record<string, never>>(call: string, request: object = {}): Promise<T> {
    for (let asked = 1; ; asked += 1) {
      const outcome = await this.outcome(call, request);
      if ('answer' in outcome) return outcome.answer as T;
      if (outcome.code !== 'UNAVAILABLE' || asked >= mostAsked) {
        throw new Error(`${call}: ${outcome.code}: ${outcome.message}`);
      }
      await delay(askAgainMs);
    }
  }

  async codeOf(call: string, request: object = {}): Promise<CsiCode> {
    return (await this.outcome(call, request)).code;
  }

  /** All messages of a call that is answered with several; the code of its end. */
  async stream<T>(call: string, request: object): Promise<{ code: CsiCode; messages: T[] }> {
    const { path, requestSerialize, responseDeserialize } = this.#method(call);
    const stream = this.#client.makeServerStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      request,
    );
    const messages: T[] = [];
    try {
      for await (const message of stream) messages.push(message as T);
      return { code: 'OK', messages };
    } catch (error) {
      return { code: codeOf((error as ServiceError).code), messages };
    }
  }

  close(): void {
    this.#client.close();
  }

  #method(call: string): CsiServices[CsiServiceName][string] {
    const [service, name = ''] = call.split('.');
    const method = this.#services[service as CsiServiceName][name];
    if (method) return method;
    throw new Error(`there is no call ${call}`);
  }
}

function codeOf(number: number): CsiCode {
  const found = Object.entries(status).find(([, value]) => value === number);
  if (found) return found[0] as CsiCode;
  throw new Error(`gRPC status ${number} is none of CSI`);
}
