import type { FioTarget } from '../fio/fio.ts';

/** One system under measurement: something that fio can read and write. */
export interface BlockServer {
  name: string;
  target: FioTarget;
  /** variables of fio's environment: where a client library finds its configuration */
  env?: Readonly<Record<string, string>>;
  /** processes whose CPU time and memory count */
  pids(): number[];
}

/** One that serves an NBD export. */
export interface NbdServer extends BlockServer {
  uri: string;
}

/** One that somebody started only to be measured. */
export interface OwnServer extends BlockServer {
  /** Ends it and waits for that. Works twice. */
  close(): Promise<void>;
}
