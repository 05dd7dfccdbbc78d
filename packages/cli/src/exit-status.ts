/** Thrown by an action that has printed all there is to say and wants this exit code. */
export class ExitStatus extends Error {
  readonly status: number;

  constructor(status: number) {
    super(`exit ${status}`);
    this.name = 'ExitStatus';
    this.status = status;
  }
}
