import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { StorError } from '@stor/protocol';
import type { BlockDevice } from './block-device.ts';
import { isOnlyOpen, syncBlockDevice, usersOf } from './block-device-use.ts';
import { refuseAborted } from './call-device.ts';
import { DeviceControlServer } from './device-control-server.ts';
import { deviceFiles, type DeviceFiles } from './device-files.ts';
import type { DeviceCall } from './device-messages.ts';
import type { DeviceHost } from './device-parts.ts';
import type { DeviceMeans } from '../host-volumes.ts';
import type { DeviceSpec, DeviceState } from './device-processes.ts';
import { KernelBlockDevice } from './kernel-block-device.ts';
import { LoopBlockDevice } from './loop-block-device.ts';
import { writeProcessRecord } from './process-record.ts';
import { VolumeConnection } from './volume-connection.ts';
import { within } from './within.ts';

/** Programs that look at each device for a moment, as udev does, are waited for (ms). */
const passingUseMs = 2_000;
const passingLookMs = 50;
/** After the block device is gone nothing but a goodbye is left to say to the volume (ms). */
const leaveTimeoutMs = 15_000;

const forms: Readonly<
  Record<DeviceMeans, { open: typeof LoopBlockDevice.open | typeof KernelBlockDevice.open }>
> = {
  'fuse-loop': LoopBlockDevice,
  'nbd-kernel': KernelBlockDevice,
};

/** One volume as one block device: the whole of what a device process does. */
export class DeviceProcess {
  readonly #spec: DeviceSpec;
  readonly #files: DeviceFiles;
  readonly #host: DeviceHost;
  readonly #volume: VolumeConnection;
  readonly #device: BlockDevice;
  #control: DeviceControlServer | null = null;
  /** calls that change something go one after another */
  #last: Promise<unknown> = Promise.resolve();
  #stopped = false;
  #resolveEnded: (inOrder: boolean) => void = () => {};
  /** Resolves after `stop`; false: threads wait for requests that will never come. */
  readonly ended: Promise<boolean>;

  private constructor(
    spec: DeviceSpec,
    files: DeviceFiles,
    host: DeviceHost,
    { volume, device }: { volume: VolumeConnection; device: BlockDevice },
  ) {
    this.#spec = spec;
    this.#files = files;
    this.#host = host;
    this.#volume = volume;
    this.#device = device;
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
  }

  /** After an error nothing is left but the log. The folder is there. */
  static async start(
    spec: DeviceSpec,
    host: DeviceHost,
    signal: AbortSignal,
  ): Promise<DeviceProcess> {
    const files = deviceFiles(spec.id, spec.dir);
    const { logger } = host;
    const { sizeBytes, readOnly } = spec;
    const volume = await VolumeConnection.open(spec, host, signal);
    let device: BlockDevice | null = null;
    let made: DeviceProcess | null = null;
    try {
      logger.info({ address: volume.address, sizeBytes }, 'connected to the volume');
      device = await forms[spec.means].open({ spec, files, volume, host }, signal);
      writeProcessRecord(files.record, device.path);
      const { path } = device;
      logger.info({ path, readOnly, means: spec.means }, 'the device is there');
      const process = new DeviceProcess(spec, files, host, { volume, device });
      made = process;
      process.#control = await DeviceControlServer.listen(
        files.controlSocket,
        (call, gone) => process.#carryOut(call, gone),
        logger,
      );
      refuseAborted(signal, 'the call');
      return process;
    } catch (error) {
      await made?.close();
      await takeBack(volume, device).catch((thrown: unknown) => {
        const { message } = StorError.from(thrown);
        logger.error({ error: message }, 'something could not be taken away again');
      });
      throw error;
    }
  }

  state(): DeviceState {
    const { path, sizeBytes, failure } = this.#device;
    const { id, means, readOnly } = this.#spec;
    const { address, failure: lost } = this.#volume;
    const why = lost ?? failure;
    return { id, pid: process.pid, path, means, sizeBytes, readOnly, address, failure: why };
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
    if (call.call === 'setAddresses') this.#volume.setAddresses(call.addresses);
    // at once: what goes on may wait for a node that can be reached at the new addresses
    if (call.call === 'state' || call.call === 'setAddresses') return this.state();
    if (call.call === 'stop' && call.force) {
      // others may wait for what will never be answered
      await this.#volume.close();
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
    const { sizeBytes: is } = this.#device;
    if (sizeBytes < is) {
      const text = `a device of ${is} bytes cannot become smaller (${sizeBytes} bytes)`;
      throw new StorError('INVALID_ARGUMENT', text);
    }
    await this.#volume.grow(sizeBytes, signal);
    await this.#device.grow(sizeBytes);
    this.#host.logger.info({ sizeBytes }, 'the device has grown');
  }

  async #stop(force: boolean, signal: AbortSignal): Promise<void> {
    const device = this.#device;
    const { path } = device;
    if (force) await this.#volume.close();
    else if (device.failure === null) await this.#writeBack(signal);
    const isDetached = await device.detach({ force });
    if (!isDetached && !force) {
      const text = `${path} is open in a program that could not be found: end it, and detach again`;
      throw new StorError('IN_USE', text);
    }
    this.#stopped = true;
    await device.dismantle({ force });
    if (!force) await this.#leave();
    const inOrder = await device.end(isDetached);
    fs.rmSync(this.#files.record, { force: true });
    this.#host.logger.info({ force, path }, 'the device is gone');
    this.#resolveEnded(inOrder);
  }

  async #writeBack(signal: AbortSignal): Promise<void> {
    const { path } = this.#device;
    await this.#refuseInUse();
    try {
      await syncBlockDevice(path);
    } catch (cause) {
      const text = `what was written to ${path} cannot be written back (${(cause as Error).message}): detach with force to give it up`;
      throw new StorError('UNAVAILABLE', text, { cause });
    }
    // that may have taken as long as an outage of the volume
    refuseAborted(signal, 'the call');
    await this.#refuseInUse();
  }

  async #refuseInUse(): Promise<void> {
    const { path } = this.#device;
    let users = await usersOf(path);
    for (let ms = 0; isOnlyOpen(users) && ms < passingUseMs; ms += passingLookMs) {
      await delay(passingLookMs);
      users = await usersOf(path);
    }
    if (users.length === 0) return;
    const text = `${path} is in use: ${users.join(', ')}`;
    throw new StorError('IN_USE', text, { details: { users: users.join(', ') } });
  }

  async #leave(): Promise<void> {
    const volume = this.#volume;
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

async function takeBack(volume: VolumeConnection, device: BlockDevice | null): Promise<void> {
  await volume.close();
  if (!device) return;
  const isDetached = await device.detach({ force: true });
  await device.dismantle({ force: true });
  await device.end(isDetached);
}
