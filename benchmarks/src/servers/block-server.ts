/** One system under measurement: something that serves an NBD export. */
export interface BlockServer {
  name: string;
  uri: string;
  /** processes whose CPU time counts */
  pids(): number[];
}
