import { join } from 'node:path';
import { StorError } from '@stor/protocol';
import {
  makeDurableDirectory,
  readTextFile,
  writeTextFileDurably,
  type Files,
} from '@stor/runtime';
import { z } from 'zod';
import {
  hostFormatVersion,
  hostStateSchema,
  type DeviceRecord,
  type HostState,
} from './core/host-records.ts';

/** `devices.json`: what this host has of devices and mounts, durable before `put` returns. */
export class HostStateFile {
  readonly #files: Files;
  readonly #path: string;
  #state: HostState;

  private constructor(files: Files, path: string, state: HostState) {
    this.#files = files;
    this.#path = path;
    this.#state = state;
  }

  /** FOREIGN_DATA when it cannot be read, or is of a newer version. */
  static open(files: Files, folder: string, bootId: string): HostStateFile {
    makeDurableDirectory(files, folder);
    const path = join(folder, 'devices.json');
    const empty = { formatVersion: hostFormatVersion, bootId, devices: [] };
    return new HostStateFile(files, path, files.exists(path) ? readState(files, path) : empty);
  }

  get state(): HostState {
    return this.#state;
  }

  get devices(): readonly DeviceRecord[] {
    return this.#state.devices;
  }

  /** By the volume's id or name; the id goes first. */
  find(volume: string): DeviceRecord | null {
    const { devices } = this.#state;
    return (
      devices.find(({ volumeId }) => volumeId === volume) ??
      devices.find((device) => device.volume === volume) ??
      null
    );
  }

  byId(id: string): DeviceRecord | null {
    return this.#state.devices.find((device) => device.id === id) ?? null;
  }

  /** The record as it is from now on, in the place of the one with its id. */
  put(record: DeviceRecord): DeviceRecord {
    const { devices } = this.#state;
    const isKnown = devices.some(({ id }) => id === record.id);
    const now = isKnown
      ? devices.map((device) => (device.id === record.id ? record : device))
      : [...devices, record];
    this.replace({ ...this.#state, devices: now });
    return record;
  }

  remove(id: string): void {
    const devices = this.#state.devices.filter((device) => device.id !== id);
    this.replace({ ...this.#state, devices });
  }

  replace(state: HostState): void {
    writeTextFileDurably(this.#files, this.#path, `${JSON.stringify(state, null, 2)}\n`);
    this.#state = state;
  }
}

function readState(files: Files, path: string): HostState {
  const cannot = (why: string, cause?: unknown): StorError =>
    new StorError('FOREIGN_DATA', `${path} ${why}`, { cause });
  let value: unknown;
  try {
    value = JSON.parse(readTextFile(files, path));
  } catch (error) {
    throw cannot(`cannot be read: ${(error as Error).message}`, error);
  }
  const version = z.object({ formatVersion: z.number() }).safeParse(value);
  if (version.success && version.data.formatVersion > hostFormatVersion) {
    throw cannot(
      `has format version ${version.data.formatVersion}; this agent knows up to ${hostFormatVersion}: start the newer agent that wrote it`,
    );
  }
  const parsed = hostStateSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw cannot(
    `is damaged: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'it is not what an agent wrote'}`,
    parsed.error,
  );
}
