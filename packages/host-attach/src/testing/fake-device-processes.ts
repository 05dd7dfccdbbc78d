import { StorError } from '@stor/protocol';
import type { ExportAddress } from 'nbd-client-js';
import { checkDeviceId } from '../device/device-files.ts';
import type { DeviceProcesses, DeviceSpec, DeviceState } from '../device/device-processes.ts';
import type { DeviceMeans } from '../host-volumes.ts';

interface FakeDevice {
  spec: DeviceSpec;
  state: DeviceState;
  /** who has it open or mounted, in words */
  users: string[];
}

export interface FakeDeviceProcessesOptions {
  /** those that this host has; `fuse-loop` unless given */
  means?: readonly DeviceMeans[];
  /** what an export has; without it any size is right */
  exportSizeBytes?: (exportName: string) => number;
}

/** Keeps devices in memory. They outlive whoever started them, as long as this object does. */
export class FakeDeviceProcesses implements DeviceProcesses {
  readonly #devices = new Map<string, FakeDevice>();
  readonly #means: readonly DeviceMeans[];
  readonly #exportSizeBytes: (exportName: string) => number;
  #next = 0;
  /** the next starts fail with these, one after another */
  readonly startErrors: StorError[] = [];

  constructor(options: FakeDeviceProcessesOptions = {}) {
    this.#means = options.means ?? ['fuse-loop'];
    this.#exportSizeBytes = options.exportSizeBytes ?? (() => Infinity);
  }

  async start(spec: DeviceSpec, signal: AbortSignal): Promise<DeviceState> {
    const key = keyOf(spec.id, spec.dir);
    if (this.#devices.has(key)) {
      throw new StorError('ALREADY_EXISTS', `device ${spec.id} in ${spec.dir} runs already`);
    }
    refuseAborted(signal);
    const planned = this.startErrors.shift();
    if (planned) throw planned;
    if (!this.#means.includes(spec.means)) {
      const text = `devices by ${spec.means} cannot be made here: use fuse-loop`;
      throw new StorError('FAILED_PRECONDITION', text);
    }
    this.#needSize(spec.exportName, spec.sizeBytes, 'FAILED_PRECONDITION');
    this.#next += 1;
    const { id, means, sizeBytes, readOnly } = spec;
    const path = `/dev/${means === 'fuse-loop' ? 'loop' : 'nbd'}${this.#next}`;
    const pid = 100_000 + this.#next;
    const address = textOf(spec.addresses[0]);
    const state = { id, pid, path, means, sizeBytes, readOnly, address, failure: null };
    this.#devices.set(key, { spec, state, users: [] });
    return { ...state };
  }

  async find(id: string, dir: string, signal: AbortSignal): Promise<DeviceState | null> {
    const device = this.#devices.get(keyOf(id, dir));
    refuseAborted(signal);
    return device ? { ...device.state } : null;
  }

  async setAddresses(
    id: string,
    dir: string,
    addresses: readonly ExportAddress[],
    signal: AbortSignal,
  ): Promise<void> {
    const device = this.#must(id, dir);
    refuseAborted(signal);
    if (addresses.length === 0) throw new StorError('INVALID_ARGUMENT', 'no addresses');
    device.spec = { ...device.spec, addresses };
  }

  async grow(
    id: string,
    dir: string,
    sizeBytes: number,
    signal: AbortSignal,
  ): Promise<DeviceState> {
    const { spec, state } = this.#must(id, dir);
    refuseAborted(signal);
    if (sizeBytes < state.sizeBytes) {
      const text = `a device of ${state.sizeBytes} bytes cannot become smaller (${sizeBytes} bytes)`;
      throw new StorError('INVALID_ARGUMENT', text);
    }
    this.#needSize(spec.exportName, sizeBytes, 'UNAVAILABLE');
    state.sizeBytes = sizeBytes;
    return { ...state };
  }

  async stop(
    id: string,
    dir: string,
    { force = false }: { force?: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const key = keyOf(id, dir);
    refuseAborted(signal);
    const device = this.#devices.get(key);
    if (device && device.users.length > 0 && !force) {
      const users = device.users.join(', ');
      const text = `${device.state.path} is in use: ${users}`;
      throw new StorError('IN_USE', text, { details: { users } });
    }
    this.#devices.delete(key);
  }

  /** All that run, oldest first. */
  list(): { spec: DeviceSpec; state: DeviceState }[] {
    return [...this.#devices.values()].map(({ spec, state }) => ({ spec, state: { ...state } }));
  }

  /** Says who has it open or mounted; nobody with an empty list. */
  use(id: string, dir: string, users: readonly string[]): void {
    this.#must(id, dir).users = [...users];
  }

  /** Its requests fail from now on; null: they do not any more. */
  fail(id: string, dir: string, failure: string | null): void {
    this.#must(id, dir).state.failure = failure;
  }

  /** As when its process was killed. */
  kill(id: string, dir: string): void {
    this.#devices.delete(keyOf(id, dir));
  }

  #must(id: string, dir: string): FakeDevice {
    const device = this.#devices.get(keyOf(id, dir));
    if (device) return device;
    throw new StorError('NOT_FOUND', `device ${id} in ${dir} has no process`);
  }

  #needSize(
    exportName: string,
    sizeBytes: number,
    code: 'FAILED_PRECONDITION' | 'UNAVAILABLE',
  ): void {
    const has = this.#exportSizeBytes(exportName);
    if (has >= sizeBytes) return;
    throw new StorError(code, `the volume has ${has} bytes and not ${sizeBytes}`);
  }
}

function keyOf(id: string, dir: string): string {
  checkDeviceId(id);
  return `${dir}/${id}`;
}

function textOf(address: ExportAddress | undefined): string | null {
  if (address === undefined || typeof address === 'string') return address ?? null;
  return 'path' in address ? address.path : `${address.host}:${address.port}`;
}

function refuseAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new StorError('ABORTED', 'aborted', { cause: signal.reason });
}
