import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { StorError } from '@stor/protocol';
import type { Clock, Logger, NetlinkNbd } from '@stor/runtime';
import { isOnlyOpen, syncBlockDevice, usersOf } from './block-device-use.ts';
import { refuseAborted } from './call-device.ts';
import { DeviceControlServer } from './device-control-server.ts';
import { deviceFiles, type DeviceFiles } from './device-files.ts';
import type { DeviceCall } from './device-messages.ts';
import type { DeviceSpec, DeviceState } from './device-processes.ts';
import { backendOf, openKernelNbd } from './kernel-nbd-files.ts';
import { KernelNbdVolume } from './kernel-nbd-volume.ts';
import { writeProcessRecord } from './process-record.ts';

/** Programs that look at each device for a moment, as udev does, are waited for (ms). */
const passingUseMs = 2_000;
const passingLookMs = 50;

/** One volume as one NBD device of the kernel: the whole of what such a device process does. */
export class KernelDeviceProcess {
  readonly #spec: DeviceSpec;
  readonly #files: DeviceFiles;
  readonly #logger: Logger;
  readonly #link: NetlinkNbd;
  readonly #volume: KernelNbdVolume;
  #control: DeviceControlServer | null = null;
  /** calls that change something go one after another */
  #last: Promise<unknown> = Promise.resolve();
  #stopped = false;
  #resolveEnded: (inOrder: boolean) => void = () => {};
  /** Resolves after `stop`. */
  readonly ended: Promise<boolean>;

  private constructor(
    spec: DeviceSpec,
    files: DeviceFiles,
    logger: Logger,
    { link, volume }: { link: NetlinkNbd; volume: KernelNbdVolume },
  ) {
    this.#spec = spec;
    this.#files = files;
    this.#logger = logger;
    this.#link = link;
    this.#volume = volume;
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
  }

  /** After an error nothing is left but the log. The folder is there. */
  static async start(
    spec: DeviceSpec,
    { clock, logger }: { clock: Clock; logger: Logger },
    signal: AbortSignal,
  ): Promise<KernelDeviceProcess> {
    const files = deviceFiles(spec.id, spec.dir);
    const link = await openKernelNbd(signal);
    if (!link) {
      const text = 'this kernel has no NBD, or it may not be loaded: use fuse-loop';
      throw new StorError('FAILED_PRECONDITION', text);
    }
    let volume: KernelNbdVolume | null = null;
    let device: KernelDeviceProcess | null = null;
    try {
      const backend = backendOf(files);
      volume = await KernelNbdVolume.open({ spec, backend, link, clock, logger }, signal);
      writeProcessRecord(files.record, volume.path);
      const made = new KernelDeviceProcess(spec, files, logger, { link, volume });
      device = made;
      made.#control = await DeviceControlServer.listen(
        files.controlSocket,
        (call, gone) => made.#carryOut(call, gone),
        logger,
      );
      refuseAborted(signal, 'the call');
      logger.info({ path: volume.path, address: volume.address }, 'the device is there');
      return made;
    } catch (error) {
      await device?.close();
      await volume?.close();
      link.close();
      throw error;
    }
  }

  state(): DeviceState {
    const { path, sizeBytes, address, failure } = this.#volume;
    const { id, means, readOnly } = this.#spec;
    return { id, pid: process.pid, path, means, sizeBytes, readOnly, address, failure };
  }

  /** Takes the device away if nobody uses it, as when the host is told to end all programs. */
  async stopIfUnused(): Promise<void> {
    try {
      await this.#carryOut({ call: 'stop', force: false }, new AbortController().signal);
    } catch (error) {
      const { message } = StorError.from(error);
      this.#logger.warn({ error: message }, 'told to end, the device stays');
    }
  }

  async #carryOut(call: DeviceCall, signal: AbortSignal): Promise<DeviceState> {
    if (call.call === 'setAddresses') this.#volume.setAddresses(call.addresses);
    // at once: what goes on may wait for a node that can be reached at the new addresses
    if (call.call === 'state' || call.call === 'setAddresses') return this.state();
    // others may wait for what will never be answered
    if (call.call === 'stop' && call.force) await this.#volume.close();
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
    const { sizeBytes: is } = this.#volume;
    if (sizeBytes < is) {
      const text = `a device of ${is} bytes cannot become smaller (${sizeBytes} bytes)`;
      throw new StorError('INVALID_ARGUMENT', text);
    }
    await this.#volume.grow(sizeBytes, signal);
    this.#logger.info({ sizeBytes }, 'the device has grown');
  }

  async #stop(force: boolean, signal: AbortSignal): Promise<void> {
    const { path, failure } = this.#volume;
    if (!force && failure === null) await this.#writeBack(signal);
    const isGone = await this.#volume.close();
    if (!isGone && !force) {
      const text = `${path} is open in a program that could not be found: end it, and detach again`;
      throw new StorError('IN_USE', text);
    }
    this.#stopped = true;
    fs.rmSync(this.#files.record, { force: true });
    this.#logger.info({ force, path }, 'the device is gone');
    this.#resolveEnded(true);
  }

  async #writeBack(signal: AbortSignal): Promise<void> {
    const { path } = this.#volume;
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
    const { path } = this.#volume;
    let users = await usersOf(path);
    for (let ms = 0; isOnlyOpen(users) && ms < passingUseMs; ms += passingLookMs) {
      await delay(passingLookMs);
      users = await usersOf(path);
    }
    if (users.length === 0) return;
    const text = `${path} is in use: ${users.join(', ')}`;
    throw new StorError('IN_USE', text, { details: { users: users.join(', ') } });
  }

  /** After `ended`: the last answers arrive. */
  async close(): Promise<void> {
    await this.#control?.close();
    this.#link.close();
  }
}
