/** A volume as a block device of this host, by one of the means. */
export interface BlockDevice {
  /** `/dev/loop3`, `/dev/nbd0` */
  readonly path: string;
  readonly sizeBytes: number;
  /** Why its requests fail, as when somebody else has taken it away; null: they do not. */
  readonly failure: string | null;
  /** Tells whoever uses it, when the volume has this size. */
  grow(sizeBytes: number): Promise<void>;
  /** False: somebody has it open, and it goes away at the last close. Works twice. */
  detach(options: { force: boolean }): Promise<boolean>;
  /** After `detach`, what it was made of goes, but for what `end` does. */
  dismantle(options: { force: boolean }): Promise<void>;
  /** The last thing. False: threads of this process wait for requests that will never come. */
  end(isDetached: boolean): Promise<boolean>;
}
