import { hasCode, StorError } from '@stor/protocol';
import type { Logger } from '@stor/runtime';
import type { HostTools } from './host-tools.ts';
import type { UsedMeans, WantedMeans } from './host-volumes.ts';

/**
 * By which means the next device of this host is made. `auto`: by the kernel's NBD where it is there, and by FUSE
 * and a loop device once it turned out that it is of no use (another network namespace, a `/dev` without its files).
 */
export class ChosenMeans {
  readonly #wanted: WantedMeans;
  readonly #tools: Pick<HostTools, 'hasKernelNbd'>;
  readonly #logger: Logger;
  #refusal: string | null = null;

  constructor(
    wanted: WantedMeans,
    { tools, logger }: { tools: Pick<HostTools, 'hasKernelNbd'>; logger: Logger },
  ) {
    this.#wanted = wanted;
    this.#tools = tools;
    this.#logger = logger;
  }

  async next(): Promise<UsedMeans> {
    const wanted = this.#wanted;
    const refusal = this.#refusal;
    if (wanted !== 'auto') return { wanted, refusal, means: wanted };
    const byKernel = refusal === null && (await this.#tools.hasKernelNbd());
    return { wanted, refusal, means: byKernel ? 'nbd-kernel' : 'fuse-loop' };
  }

  /** What else to try when a device could not be made so; null: nothing else would help. */
  otherThan({ wanted, means }: UsedMeans, thrown: unknown): UsedMeans | null {
    if (wanted !== 'auto' || means !== 'nbd-kernel') return null;
    if (!hasCode(thrown, 'FAILED_PRECONDITION')) return null;
    return { wanted, means: 'fuse-loop', refusal: StorError.from(thrown).message };
  }

  /** A device was made by what was tried instead: so are all, until the agent starts again. */
  settle({ refusal }: UsedMeans): void {
    this.#refusal = refusal;
    const text = "the kernel's NBD is of no use here: devices are made by FUSE and loop";
    this.#logger.warn({ error: refusal }, text);
  }
}
