import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { StorError } from '@stor/protocol';
import type { Clock, Logger } from '@stor/runtime';
import type { ReconnectLimits } from 'nbd-client-js';
import { FuseDisk } from '../core/fuse-disk.ts';
import { isOnlyOpen, syncBlockDevice, usersOf } from './block-device-use.ts';
import { refuseAborted } from './call-device.ts';
import { DeviceControlServer } from './device-control-server.ts';
import { deviceFiles, type DeviceFiles } from './device-files.ts';
import { withoutLinks } from './device-leftovers.ts';
import type { DeviceCall } from './device-messages.ts';
import type { DeviceSpec, DeviceState } from './device-processes.ts';
import { FuseDevice } from './fuse-channel.ts';
import { mountFuse, removeMountPoint, unmountAll } from './fuse-mount.ts';
import { FuseServer } from './fuse-server.ts';
import {
  attachLoop,
  detachLoop,
  detachWaitMs,
  growLoop,
  isLoopOf,
  loopDevicesOf,
} from './loop-device.ts';
import { writeProcessRecord } from './process-record.ts';
import { VolumeConnection } from './volume-connection.ts';

/** Programs that look at each device for a moment, as udev does, are waited for (ms). */
const passingUseMs = 2_000;
const passingLookMs = 50;
/** With force nobody waits for the users of the block device (ms). */
const forcedWaitMs = 500;
/** After the block device is gone nothing but a goodbye is left to say to the volume (ms). */
const leaveTimeoutMs = 15_000;
/** An unmounted file system ends the reads of its requests at once (ms). */
const endTimeoutMs = 5_000;

export interface DeviceHost {
  clock: Clock;
  logger: Logger;
  limits?: Partial<ReconnectLimits>;
}

/** What a device is made of, in the order in which it is made. */
interface DeviceParts {
  volume: VolumeConnection;
  disk: FuseDisk;
  fuse: FuseDevice;
  server: FuseServer;
  loopPath: string;
}

/** One volume as one block device: the whole of what a device process does. */
export class DeviceProcess {
  readonly #spec: DeviceSpec;
  readonly #files: DeviceFiles;
  readonly #host: DeviceHost;
  readonly #parts: DeviceParts;
  #control: DeviceControlServer | null = null;
  /** calls that change something go one after another */
  #last: Promise<unknown> = Promise.resolve();
  #stopped = false;
  #resolveEnded: (inOrder: boolean) => void = () => {};
  /** Resolves after `stop`; false: threads wait for requests that will never come. */
  readonly ended: Promise<boolean>;

  private constructor(spec: DeviceSpec, files: DeviceFiles, host: DeviceHost, parts: DeviceParts) {
    this.#spec = spec;
    this.#files = files;
    this.#host = host;
    this.#parts = parts;
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
  }

  /** After an error nothing is left but the log. The folder is there. */
  static async start(
    spec: DeviceSpec,
    host: DeviceHost,
    signal: AbortSignal,
  ): Promise<DeviceProcess> {
    const files = deviceFiles(spec.id, spec.dir);
    if (spec.means !== 'fuse-loop') {
      const text = `devices by ${spec.means} cannot be made yet: use fuse-loop`;
      throw new StorError('FAILED_PRECONDITION', text);
    }
    const undo: (() => Promise<void> | void)[] = [];
    try {
      const parts = await makeParts(spec, files, host, { undo, signal });
      const device = new DeviceProcess(spec, files, host, parts);
      device.#control = await DeviceControlServer.listen(
        files.controlSocket,
        (call, gone) => device.#carryOut(call, gone),
        host.logger,
      );
      undo.push(() => device.#control?.close());
      refuseAborted(signal, 'the call');
      return device;
    } catch (error) {
      for (const step of undo.reverse()) {
        try {
          await step();
        } catch (thrown) {
          const { message } = StorError.from(thrown);
          host.logger.error({ error: message }, 'something could not be taken away again');
        }
      }
      throw error;
    }
  }

  state(): DeviceState {
    const { volume, disk, loopPath } = this.#parts;
    return {
      id: this.#spec.id,
      pid: process.pid,
      path: loopPath,
      means: this.#spec.means,
      sizeBytes: disk.sizeBytes,
      readOnly: disk.readOnly,
      address: volume.address,
      failure: volume.failure ?? (this.#hasLoop ? null : `${loopPath} was taken away`),
    };
  }

  /** Somebody else may have detached it, and its name may be another device's by now. */
  get #hasLoop(): boolean {
    return isLoopOf(this.#parts.loopPath, withoutLinks(this.#files).disk);
  }

  /** Takes the device away if nobody uses it, as when the host is told to end all programs. */
  async stopIfUnused(): Promise<void> {
    try {
      await this.#carryOut({ call: 'stop', force: false }, new AbortController().signal);
    } catch (error) {
      const { message } = StorError.from(error);
      this.#host.logger.warn({ error: message }, 'told to end, the device stays');
    }
  }

  async #carryOut(call: DeviceCall, signal: AbortSignal): Promise<DeviceState> {
    if (call.call === 'setAddresses') this.#parts.volume.setAddresses(call.addresses);
    // at once: what goes on may wait for a node that can be reached at the new addresses
    if (call.call === 'state' || call.call === 'setAddresses') return this.state();
    if (call.call === 'stop' && call.force) {
      // others may wait for what will never be answered
      await this.#parts.volume.close();
    }
    const turn = this.#last.then(() => this.#change(call, signal));
    this.#last = turn.catch(() => {});
    await turn;
    return this.state();
  }

  async #change(
    call: Extract<DeviceCall, { call: 'grow' | 'stop' }>,
    signal: AbortSignal,
  ): Promise<void> {
    if (this.#stopped) {
      if (call.call === 'stop') return;
      throw new StorError('ABORTED', 'the device is being taken away');
    }
    refuseAborted(signal, 'the call');
    if (call.call === 'stop') await this.#stop(call.force, signal);
    else await this.#grow(call.sizeBytes, signal);
  }

  async #grow(sizeBytes: number, signal: AbortSignal): Promise<void> {
    const { volume, disk, loopPath } = this.#parts;
    if (sizeBytes < disk.sizeBytes) {
      const text = `a device of ${disk.sizeBytes} bytes cannot become smaller (${sizeBytes} bytes)`;
      throw new StorError('INVALID_ARGUMENT', text);
    }
    await volume.grow(sizeBytes, signal);
    disk.grow(sizeBytes);
    // the kernel asks for the size, which older ones do not when the loop device is told
    await fs.promises.stat(this.#files.disk);
    await growLoop(loopPath, sizeBytes);
    this.#host.logger.info({ sizeBytes }, 'the device has grown');
  }

  async #stop(force: boolean, signal: AbortSignal): Promise<void> {
    const { volume, fuse, server, loopPath } = this.#parts;
    const { logger } = this.#host;
    const { disk, mountPoint } = withoutLinks(this.#files);
    if (force) await volume.close();
    else if (this.#hasLoop) await this.#writeBack(signal);
    const isDetached = await detachLoop(loopPath, disk, force ? forcedWaitMs : detachWaitMs);
    if (!isDetached && !force) {
      const text = `${loopPath} is open in a program that could not be found: end it, and detach again`;
      throw new StorError('IN_USE', text);
    }
    this.#stopped = true;
    await unmountAll(mountPoint, { lazy: force });
    if (!force) await this.#leave();
    // of a file system that a block device in use holds no read of a request ever ends
    const inOrder = isDetached && (await within(endTimeoutMs, server.ended));
    if (inOrder) fuse.close();
    fs.rmSync(this.#files.record, { force: true });
    removeMountPoint(this.#files.mountPoint);
    logger.info({ force, path: loopPath }, 'the device is gone');
    this.#resolveEnded(inOrder);
  }

  async #writeBack(signal: AbortSignal): Promise<void> {
    const { loopPath } = this.#parts;
    await this.#refuseInUse();
    try {
      await syncBlockDevice(loopPath);
    } catch (cause) {
      const text = `what was written to ${loopPath} cannot be written back (${(cause as Error).message}): detach with force to give it up`;
      throw new StorError('UNAVAILABLE', text, { cause });
    }
    // that may have taken as long as an outage of the volume
    refuseAborted(signal, 'the call');
    await this.#refuseInUse();
  }

  async #refuseInUse(): Promise<void> {
    const { loopPath } = this.#parts;
    let users = await usersOf(loopPath);
    for (let ms = 0; isOnlyOpen(users) && ms < passingUseMs; ms += passingLookMs) {
      await delay(passingLookMs);
      users = await usersOf(loopPath);
    }
    if (users.length === 0) return;
    const text = `${loopPath} is in use: ${users.join(', ')}`;
    throw new StorError('IN_USE', text, { details: { users: users.join(', ') } });
  }

  async #leave(): Promise<void> {
    const { volume } = this.#parts;
    const { logger } = this.#host;
    // all is durable already: the sync of the block device was answered
    const left = volume.leave().catch((error: unknown) => {
      logger.warn({ error: (error as Error).message }, 'no goodbye was said to the volume');
    });
    await within(leaveTimeoutMs, left);
    await volume.close();
  }

  /** After `ended`: the last answers arrive. */
  async close(): Promise<void> {
    await this.#control?.close();
  }
}

async function makeParts(
  spec: DeviceSpec,
  files: DeviceFiles,
  host: DeviceHost,
  { undo, signal }: { undo: (() => Promise<void> | void)[]; signal: AbortSignal },
): Promise<DeviceParts> {
  const { logger } = host;
  const { disk: diskFile, mountPoint } = withoutLinks(files);
  const volume = await VolumeConnection.open(spec, host, signal);
  undo.push(() => volume.close());
  logger.info({ address: volume.address, sizeBytes: spec.sizeBytes }, 'connected to the volume');
  const disk = new FuseDisk(spec);
  const fuse = new FuseDevice();
  const server = new FuseServer({ channel: fuse, disk, volume, logger });
  undo.push(async () => {
    await unmountAll(mountPoint, { lazy: true });
    removeMountPoint(files.mountPoint);
  });
  await mountFuse(fuse.fd, { source: `stor-${spec.id}`, target: mountPoint }, signal);
  server.start();
  undo.push(async () => {
    for (const made of loopDevicesOf(diskFile)) await detachLoop(made, diskFile);
  });
  const { path, directIo } = await attachLoop(diskFile, spec, signal);
  writeProcessRecord(files.record, path);
  if (!directIo) logger.warn({ path }, 'without direct I/O: one request at a time, and slower');
  logger.info({ path, directIo, readOnly: spec.readOnly }, 'the device is there');
  return { volume, disk, fuse, server, loopPath: path };
}

/** Whether it resolved within the time. */
async function within(ms: number, done: Promise<unknown>): Promise<boolean> {
  const timer = new AbortController();
  const late = delay(ms, false, { signal: timer.signal }).catch(() => false);
  const inTime = await Promise.race([done.then(() => true), late]);
  timer.abort();
  return inTime;
}
