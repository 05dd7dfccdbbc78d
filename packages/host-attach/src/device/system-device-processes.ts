import { spawn, type ChildProcess } from 'node:child_process';
import fs from 'node:fs';
import type net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { hasCode, StorError } from '@stor/protocol';
import type { ExportAddress } from 'nbd-client-js';
import { callDevice, refuseAborted } from './call-device.ts';
import { deviceFiles, type DeviceFiles } from './device-files.ts';
import { clearLeftovers, failKernelDevice } from './device-leftovers.ts';
import { parseAnswer, specText, type DeviceCall } from './device-messages.ts';
import type { DeviceProcesses, DeviceSpec, DeviceState } from './device-processes.ts';
import { readLine } from './line-socket.ts';
import { killProcess, livingProcess, lives, type ProcessRecord } from './process-record.ts';

/** Of what a process answers from its memory (ms). */
const answerTimeoutMs = 10_000;
/** Connecting to the volume anew takes 30 s at most, the rest is of this host (ms). */
const growTimeoutMs = 90_000;
/** What is written back may wait for a volume that cannot be reached, for as long as a request does (ms). */
const stopTimeoutMs = 12 * 60_000;
/** With force it waits for nothing but this host (ms). */
const forcedStopTimeoutMs = 60_000;
/** A process that was started, or that has answered its last call, is there or gone in this time (ms). */
const processWaitMs = 15_000;
const processLookMs = 20;
/** One of its threads waits for requests, more for programs that look at the file meanwhile. */
const threadPoolSize = 12;
/** A log that has grown to this (bytes) makes place for a new one when a device starts. */
const oldLogBytes = 1024 * 1024;

export interface SystemDeviceProcessesOptions {
  /** the program of the process; that of this package unless given */
  mainFile?: string;
  /** arguments of Node in front of it */
  nodeArguments?: readonly string[];
}

/** Device processes of this host. */
export class SystemDeviceProcesses implements DeviceProcesses {
  readonly #mainFile: string;
  readonly #nodeArguments: readonly string[];

  constructor({ mainFile, nodeArguments = [] }: SystemDeviceProcessesOptions = {}) {
    this.#mainFile = mainFile ?? fileURLToPath(new URL('./device-main.js', import.meta.url));
    this.#nodeArguments = nodeArguments;
  }

  /** ALREADY_EXISTS, FAILED_PRECONDITION (this host or the volume), UNAVAILABLE, ABORTED. */
  async start(spec: DeviceSpec, signal: AbortSignal): Promise<DeviceState> {
    const files = deviceFiles(spec.id, spec.dir);
    if (await this.find(spec.id, spec.dir, signal)) {
      throw new StorError('ALREADY_EXISTS', `device ${spec.id} in ${spec.dir} runs already`);
    }
    refuseAborted(signal, `starting device ${spec.id}`);
    await this.#clear(files);
    fs.mkdirSync(spec.dir, { recursive: true, mode: 0o700 });
    fs.chmodSync(spec.dir, 0o700);
    fs.writeFileSync(files.spec, specText(spec), { mode: 0o600 });
    let state: DeviceState;
    try {
      state = await this.#launch(files, signal);
    } catch (error) {
      await this.#clear(files);
      throw error;
    }
    if (!signal.aborted) return state;
    await this.stop(spec.id, spec.dir, { force: true }, new AbortController().signal);
    throw new StorError('ABORTED', `starting device ${spec.id} was aborted`);
  }

  async find(id: string, dir: string, signal: AbortSignal): Promise<DeviceState | null> {
    const files = deviceFiles(id, dir);
    const state = await this.#ask(files, { call: 'state' }, answerTimeoutMs, signal);
    if (!state) await failKernelDevice(files);
    return state;
  }

  async setAddresses(
    id: string,
    dir: string,
    addresses: readonly ExportAddress[],
    signal: AbortSignal,
  ): Promise<void> {
    const call = { call: 'setAddresses' as const, addresses: [...addresses] };
    await this.#must(id, dir, call, answerTimeoutMs, signal);
  }

  async grow(
    id: string,
    dir: string,
    sizeBytes: number,
    signal: AbortSignal,
  ): Promise<DeviceState> {
    return this.#must(id, dir, { call: 'grow', sizeBytes }, growTimeoutMs, signal);
  }

  async stop(
    id: string,
    dir: string,
    { force = false }: { force?: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const files = deviceFiles(id, dir);
    const living = livingProcess(files.record);
    try {
      await this.#ask(
        files,
        { call: 'stop', force },
        force ? forcedStopTimeoutMs : stopTimeoutMs,
        signal,
      );
    } catch (error) {
      // one that does not even answer is ended, if that was asked for
      if (!force || !living || signal.aborted) throw error;
    }
    if (living) await endOf(living);
    await this.#clear(files);
  }

  async #must(
    id: string,
    dir: string,
    call: DeviceCall,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<DeviceState> {
    const state = await this.#ask(deviceFiles(id, dir), call, timeoutMs, signal);
    if (state) return state;
    throw new StorError('NOT_FOUND', `device ${id} in ${dir} has no process`);
  }

  /** Null: no process. One that lives and does not listen is starting or ending: it is waited for. */
  async #ask(
    files: DeviceFiles,
    call: DeviceCall,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<DeviceState | null> {
    for (let waitedMs = 0; ; waitedMs += processLookMs) {
      const living = livingProcess(files.record);
      let state: DeviceState | null = null;
      try {
        state = await callDevice(files.controlSocket, call, { timeoutMs, signal });
      } catch (error) {
        // it has ended meanwhile, or is about to
        if (!hasCode(error, 'UNAVAILABLE') || !living || lives(living)) throw error;
      }
      if (state || !living) return state;
      if (waitedMs >= processWaitMs) {
        const text = `process ${living.pid} of the device does not listen at ${files.controlSocket}`;
        throw new StorError('UNAVAILABLE', text);
      }
      await delay(processLookMs, undefined, { signal }).catch(() => {});
      refuseAborted(signal, `waiting for process ${living.pid}`);
    }
  }

  /** What a process that has ended left behind. */
  async #clear(files: DeviceFiles): Promise<void> {
    if (!fs.existsSync(files.dir)) return;
    const living = livingProcess(files.record);
    if (living) {
      const text = `process ${living.pid} of the device has not ended: nothing is taken away`;
      throw new StorError('UNAVAILABLE', text);
    }
    await clearLeftovers(files);
  }

  async #launch(files: DeviceFiles, signal: AbortSignal): Promise<DeviceState> {
    const child = this.#spawn(files);
    const link = child.stdio[3] as unknown as net.Socket;
    link.on('error', () => {});
    // the process takes away what it has made by then, and says so
    const onAbort = (): void => void link.end();
    signal.addEventListener('abort', onAbort, { once: true });
    let failure: Error | null = null;
    child.once('error', (error) => (failure = error));
    try {
      const line = await readLine(link);
      if (line !== null) return parseAnswer(line);
      const why = (failure as Error | null)?.message ?? `its log ${files.log} may say why`;
      throw new StorError('INTERNAL', `the device process ended before it was ready: ${why}`);
    } finally {
      signal.removeEventListener('abort', onAbort);
      link.destroy();
      child.unref();
      const record = livingProcess(files.record);
      if (record && !fs.existsSync(files.controlSocket)) await endOf(record);
    }
  }

  #spawn(files: DeviceFiles): ChildProcess {
    if (fs.existsSync(files.log) && fs.statSync(files.log).size > oldLogBytes) {
      fs.renameSync(files.log, `${files.log}.1`);
    }
    const log = fs.openSync(files.log, 'a', 0o600);
    try {
      return spawn(
        process.execPath,
        [...this.#nodeArguments, this.#mainFile, 'launch', files.spec],
        {
          cwd: '/',
          stdio: ['ignore', log, log, 'pipe'],
          env: {
            PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin',
            UV_THREADPOOL_SIZE: String(threadPoolSize),
            // reads of /dev/fuse wait: in a thread, as is known to work
            UV_USE_IO_URING: '0',
          },
        },
      );
    } finally {
      fs.closeSync(log);
    }
  }
}

/** Waits until a process that was told to has ended, and ends it if it does not. */
async function endOf(told: ProcessRecord): Promise<void> {
  for (let waitedMs = 0; lives(told); waitedMs += processLookMs) {
    if (waitedMs === processWaitMs) killProcess(told);
    if (waitedMs >= 2 * processWaitMs) {
      const text = `process ${told.pid} of the device does not end: it waits in the kernel`;
      throw new StorError('UNAVAILABLE', text);
    }
    await delay(processLookMs);
  }
}
