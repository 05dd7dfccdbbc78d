import { setTimeout as delay } from 'node:timers/promises';
import { StorError } from '@stor/protocol';
import type { Clock, Logger, NetlinkNbd } from '@stor/runtime';
import { transmissionFlag, type ExportAddress } from 'nbd-client-js';
import type { DeviceSpec } from './device-processes.ts';
import {
  disconnectKernelDevice,
  isKernelDeviceOf,
  kernelSizeBytes,
  pathOf,
} from './kernel-nbd-files.ts';
import { KernelNbdSearch } from './kernel-nbd-search.ts';
import type { GrantedSocket } from './kernel-nbd-socket.ts';

/** Whoever starts a device waits for it; so does who lets it grow (ms). */
const firstGiveUpMs = 30_000;
/** As long as a fuse-loop device waits: an outage that people can end in minutes costs no file system (ms). */
const giveUpMs = 10 * 60_000;
/** The kernel waits longer, so that it is this process that gives up, and says why. */
const deadConnectionSeconds = giveUpMs / 1000 + 60;
/**
 * The kernel ends a connection on which a request has no answer for so long, and only then sends again
 * what was under way on one that was lost: above what a slow disk takes, and no more.
 */
const requestTimeoutSeconds = 5;
/** As of loop devices: a volume that has file systems of 512-byte sectors can be mounted by both means. */
const blockSizeBytes = 512;
/** How often it is looked whether the connection lives (ms): it adds to each outage. */
const watchMs = 100;
/** The kernel knows of a connection that was ended at once (ms). */
const deadWaitMs = 2_000;
const deadLookMs = 10;
/** After it nobody has the device open, or somebody keeps it so (ms). */
const disconnectWaitMs = 5_000;

export interface KernelVolumeOptions {
  spec: DeviceSpec;
  /** names this process to the kernel */
  backend: string;
  link: NetlinkNbd;
  clock: Clock;
  logger: Logger;
}

/**
 * A volume as an NBD device of the kernel. The requests go from the kernel to the node; this sees to it
 * that there is a connection. One at a time: the kernel sends over another what it has sent over one that
 * was lost, and then the old must not take effect after the new. The server orders connections
 * that follow each other, not those beside each other.
 */
export class KernelNbdVolume {
  readonly #options: KernelVolumeOptions;
  readonly #search: KernelNbdSearch;
  readonly #stop = new AbortController();
  readonly index: number;
  sizeBytes: number;
  #granted: GrantedSocket;
  #isDead = false;
  #failure: string | null = null;
  #exchanging: Promise<void> | null = null;
  #cancelWatch: () => void = () => {};

  private constructor(
    options: KernelVolumeOptions,
    search: KernelNbdSearch,
    granted: GrantedSocket,
    index: number,
  ) {
    this.#options = options;
    this.#search = search;
    this.#granted = granted;
    this.index = index;
    this.sizeBytes = options.spec.sizeBytes;
    this.#watchLater();
  }

  /** FAILED_PRECONDITION (refused, smaller than it must be, an old kernel), UNAVAILABLE, ABORTED. */
  static async open(options: KernelVolumeOptions, signal: AbortSignal): Promise<KernelNbdVolume> {
    const { spec, backend, link, clock } = options;
    const search = new KernelNbdSearch(spec.exportName, spec.addresses, clock);
    const granted = await search.find(true, firstGiveUpMs, signal);
    try {
      const why = unfit(granted, spec, spec.sizeBytes);
      if (why !== null) throw new StorError('FAILED_PRECONDITION', why);
      const index = link.connect({
        sizeBytes: spec.sizeBytes,
        blockSizeBytes,
        serverFlags: spec.readOnly ? granted.flags | transmissionFlag.readOnly : granted.flags,
        ...connectionSettings(granted, backend),
      });
      if (!isKernelDeviceOf(index, backend)) {
        link.disconnect(index);
        const text = 'this kernel does not say whose a device is: nbd-kernel needs Linux 5.14';
        throw new StorError('FAILED_PRECONDITION', text);
      }
      return new KernelNbdVolume(options, search, granted, index);
    } catch (error) {
      granted.socket.end();
      granted.socket.close();
      throw error;
    }
  }

  get path(): string {
    return pathOf(this.index);
  }

  get address(): string | null {
    const { address } = this.#granted;
    return this.#exchanging || this.#failure !== null ? null : `${address.host}:${address.port}`;
  }

  get failure(): string | null {
    if (this.#failure !== null) return this.#failure;
    const isThere = isKernelDeviceOf(this.index, this.#options.backend);
    return isThere || this.#stop.signal.aborted ? null : `${this.path} was taken away`;
  }

  setAddresses(addresses: readonly ExportAddress[]): void {
    this.#search.setAddresses(addresses);
  }

  /** Over a new connection, as a connection has one size. UNAVAILABLE: the volume has not grown so far. */
  async grow(sizeBytes: number, signal: AbortSignal): Promise<void> {
    if (sizeBytes <= this.sizeBytes) return;
    await this.#exchanging;
    if (this.#failure !== null) throw new StorError('UNAVAILABLE', this.#failure);
    await this.#exchange(sizeBytes);
    if (signal.aborted) throw new StorError('ABORTED', 'the call was ended');
    if (this.#failure !== null) throw new StorError('UNAVAILABLE', this.#failure);
    if (this.sizeBytes < sizeBytes) {
      throw new StorError('UNAVAILABLE', `the volume has not grown to ${sizeBytes} bytes yet`);
    }
    const is = kernelSizeBytes(this.index);
    if (is === sizeBytes) return;
    const text = `${this.path} has ${is} bytes after it was told to have ${sizeBytes}`;
    throw new StorError('INTERNAL', text);
  }

  /** The kernel says goodbye to the node. False: somebody has it open. Works twice. */
  async close(): Promise<boolean> {
    this.#stop.abort();
    this.#cancelWatch();
    const { link, backend } = this.#options;
    // those who wait for a connection get their error now, and the search ends
    const isGone = await disconnectKernelDevice(link, this.index, backend, disconnectWaitMs);
    await this.#exchanging;
    this.#granted.socket.close();
    return isGone;
  }

  #watchLater(): void {
    this.#cancelWatch = this.#options.clock.after(watchMs, () => {
      this.#lookForDead();
      if (this.#isDead && !this.#exchanging) void this.#exchange(null);
      if (!this.#stop.signal.aborted && this.#failure === null) this.#watchLater();
    });
  }

  #lookForDead(): void {
    const { devices, lost } = this.#options.link.takeDeadLinks();
    // while one is exchanged the kernel alone knows
    const isOver = !this.#exchanging && this.#granted.socket.isOver;
    if (devices.has(this.index) || lost || isOver) this.#isDead = true;
  }

  /** One connection for the next one. Never rejects. */
  #exchange(sizeBytes: number | null): Promise<void> {
    this.#exchanging ??= this.#replace(sizeBytes)
      .catch((error: unknown) => {
        if (!this.#stop.signal.aborted) this.#fail(StorError.from(error).message);
      })
      .finally(() => (this.#exchanging = null));
    return this.#exchanging;
  }

  async #replace(sizeBytes: number | null): Promise<void> {
    const { spec, link, backend, logger } = this.#options;
    const old = this.#granted;
    this.#isDead = false;
    old.socket.end();
    // of one that it does not know to be dead the kernel would not take another in place
    for (let ms = 0; !this.#isDead && ms < deadWaitMs; ms += deadLookMs) {
      await delay(deadLookMs);
      this.#lookForDead();
    }
    const granted = await this.#search.find(false, giveUpMs, this.#stop.signal);
    try {
      const why = unfit(granted, spec, this.sizeBytes);
      if (why !== null) throw new StorError('FAILED_PRECONDITION', why);
      const hasGrown = sizeBytes !== null && granted.sizeBytes >= sizeBytes;
      link.reconfigure(this.index, {
        ...(hasGrown ? { sizeBytes } : {}),
        ...connectionSettings(granted, backend),
      });
      if (hasGrown) this.sizeBytes = sizeBytes;
    } catch (error) {
      granted.socket.end();
      granted.socket.close();
      throw error;
    }
    this.#isDead = false;
    this.#granted = granted;
    old.socket.close();
    logger.info({ address: this.address ?? granted.address }, 'connected anew');
  }

  #fail(why: string): void {
    this.#failure = why;
    const { link, logger } = this.#options;
    logger.error({ error: why }, 'the volume is lost to this device: every request fails');
    try {
      link.disconnect(this.index);
    } catch (error) {
      logger.warn({ error: (error as Error).message }, 'the kernel has let go already');
    }
  }
}

function connectionSettings(
  { socket }: GrantedSocket,
  backendIdentifier: string,
): Parameters<NetlinkNbd['connect']>[0] {
  return {
    sockets: [socket.fd],
    timeoutSeconds: requestTimeoutSeconds,
    deadConnectionTimeoutSeconds: deadConnectionSeconds,
    backendIdentifier,
  };
}

/** Why this grant cannot be the device's; null when it can. */
function unfit(granted: GrantedSocket, spec: DeviceSpec, sizeBytes: number): string | null {
  if (granted.sizeBytes < sizeBytes) {
    return `the volume has ${granted.sizeBytes} bytes, less than the ${sizeBytes} of the device`;
  }
  if ((granted.flags & transmissionFlag.readOnly) !== 0 && !spec.readOnly) {
    return 'the volume may only be read by this host';
  }
  // without it a FLUSH leaves out what was written over an earlier connection
  if ((granted.flags & (transmissionFlag.canMultiConn | transmissionFlag.readOnly)) !== 0) {
    return null;
  }
  return 'the server does not say CAN_MULTI_CONN';
}
