/** The volume, as a device uses it. Errors are those of `ReconnectingNbdClient`. */
export interface DeviceVolume {
  /** Fills all of `target`, which must not be used otherwise until it has settled. */
  read(offset: number, target: Buffer): Promise<void>;
  /** `bytes` must not change until it has settled. `fua`: they are durable then. */
  write(offset: number, bytes: Buffer, options?: { fua: boolean }): Promise<void>;
  zero(offset: number, length: number, options: { keepAllocated: boolean }): Promise<void>;
  /** Everything answered before is durable then. */
  flush(): Promise<void>;
}
