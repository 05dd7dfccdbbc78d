/** Bounds what is read from the kernel and not answered, by number and bytes. */
export class RequestBudget {
  readonly #mostRequests: number;
  readonly #mostBytes: number;
  #requests = 0;
  #bytes = 0;

  constructor(mostRequests: number, mostBytes: number) {
    this.#mostRequests = mostRequests;
    this.#mostBytes = mostBytes;
  }

  /** Whether one more may be read. The last one may exceed the bytes. */
  get hasRoom(): boolean {
    return this.#requests < this.#mostRequests && this.#bytes < this.#mostBytes;
  }

  get requests(): number {
    return this.#requests;
  }

  take(bytes: number): void {
    this.#requests += 1;
    this.#bytes += bytes;
  }

  give(bytes: number): void {
    this.#requests -= 1;
    this.#bytes -= bytes;
  }
}
